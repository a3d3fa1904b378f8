"""Small submissions, written as tests need them."""

import zipfile

MINIMAL = """
class Model:
    def __init__(self, get_train_set, systematics): pass
    def fit(self): pass
    def predict(self, test_set): return dict(mu_hat=1.0, delta_mu_hat=0.1, p16=0.9, p84=1.1)
"""


def write(folder, text=MINIMAL):
    """Make a submission with this model.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(text)
    return folder


def pack(path, *members):
    """Make a zip file of (name, content) pairs."""
    with zipfile.ZipFile(path, "w") as target:
        for name, content in members:
            target.writestr(name, content)
    return path
