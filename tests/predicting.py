"""What other processes of the tests run: they import this module by name, so it holds functions only."""

import collections
import json
import pickle
import sys
from pathlib import Path

_state = {}

STARTED = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "shutil.", "urllib.", "http.")
CHANGED = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
TUPLES = collections.namedtuple.__code__
WRITING = 0b11
"""Bits of the flags of ``open`` that are zero where a file is only read."""


def start(pickled_model, sets):
    """Prepare a worker as the official program does: the model arrives as a pickle."""
    _state["model"] = pickle.loads(pickled_model)
    _state["sets"] = sets


def predict(number):
    """Predict one pseudo-experiment by its number."""
    return number, _state["model"].predict(_state["sets"][number])


def watch():
    """Collect what this process does to the world from here on; an audit hook sees it, whoever does it."""
    seen = []

    def hook(event, arguments):
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        # Importing runs code too; what has no file was made from text, as modules of Python itself do for named tuples.
        made = event == "exec" and arguments[0].co_filename.startswith("<string") and sys._getframe(1).f_code != TUPLES
        if written or made or event.startswith(STARTED) or event in CHANGED or event == "pickle.find_class":
            seen.append(event)

    sys.addaudithook(hook)
    return seen


def alone(given, at_start):
    """Restore a model in a fresh process, predict, and print the answers with everything that happened meanwhile.

    The same for a model that is constructed, fitted and asked here; ``train`` are its training events.
    """
    content = Path(given["model"]).read_bytes()
    sets, train = pickle.loads(Path(given["sets"]).read_bytes())
    model = pickle.loads(content)
    seen = watch()
    answers = [model.predict(each) for each in sets]
    fitted = type(model)(lambda train_size: train, rebuilding="rebuild")
    fitted.fit()
    again = [fitted.predict(each) for each in sets]
    happened = list(seen)
    modules = sorted({name.partition(".")[0] for name in set(sys.modules) - at_start})
    found = {"answers": answers, "fitted": again, "report": fitted.fit_report, "happened": happened, "modules": modules}
    sys.stdout.write(json.dumps(found))
