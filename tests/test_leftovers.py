"""Programs killed while they wrote their very first file: what is left must not keep the same command from starting."""

from pathlib import Path

import pytest

from harness.results import RunFolder
from sage.errors import InputError
from training.simulation import joining
from workshop import jobs
from workshop.errors import UsageError


class Killed(BaseException):
    """Stands for the kill: nothing that follows is done."""


def run_folder(output):
    with RunFolder(output, {"seed": 1}):
        pass


def production(output):
    reason = "the simulation needs requirements-simulation.txt"
    shards = pytest.importorskip("training.simulation.shards", reason=reason, exc_type=ImportError)
    from training.simulation.production import Production

    shards.claim(Production("fast", 1, 10), output)


CLAIMS = {
    "run": run_folder,
    "study": lambda output: jobs.claim(output, {"seed": 1}),
    "simulation": production,
    "joined events": lambda output: joining._claim([], output, 1),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_kill_in_the_first_write_is_not_in_the_way(name, tmp_path, monkeypatch):
    claim, output = CLAIMS[name], tmp_path / "output"

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", kill)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            claim(output)
    (left,) = output.iterdir()
    assert left.name.startswith(".")
    for other in (".notes", "notes.txt", left.name[1:] + ".bak"):
        (output / other).touch()
        with pytest.raises((UsageError, InputError), match="not empty"):
            claim(output)
        (output / other).unlink()
    claim(output)
    assert left.name.startswith(tuple(f".{path.name}" for path in output.iterdir() if path != left))
    claim(output)
