"""Importing a submission and starting its ``Model``, as the official ingestion program does."""

from __future__ import annotations

import importlib
import logging
import pickle
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.archive import unpack
from harness.pseudo_experiments import higgsml
from harness.surroundings import inside, module_places
from harness.test_set import EventFile
from workshop.errors import SubmissionError, UsageError
from workshop.files import temporary_folder

logger = logging.getLogger("sage.harness.submission")


@contextmanager
def opened(path: Path | str) -> Iterator[Path]:
    """Give the folder of a submission; a zip file is unpacked into a temporary folder that is removed afterwards.

    Args:
        path: Folder or zip file with ``model.py`` at its root.

    Raises:
        UsageError: If there is no such submission or the zip file is refused (see ``harness.archive``).
    """
    path = Path(path).resolve()
    if path.is_dir():
        _check_root(path, path)
        yield path
        return
    if not path.is_file():
        msg = f"{path}: no such submission; give a folder or a zip file with model.py at its root"
        raise UsageError(msg)
    if not zipfile.is_zipfile(path):
        msg = f"{path}: neither a folder nor a zip file; give a folder or a zip file with model.py at its root"
        raise UsageError(msg)
    with temporary_folder("submission-") as folder:
        unpack(path, folder)
        root = _parent_folder(folder) or folder
        if root != folder:
            logger.warning("%s: its only folder %s/ is taken for the root, as Codabench does", path, root.name)
        _check_root(path, root)
        yield root


def _parent_folder(folder: Path) -> Path | None:
    """Return the one folder that a whole submission was packed in, if it was."""
    entries = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    return entries[0] if len(entries) == 1 and (entries[0] / "model.py").is_file() else None


def _check_root(path: Path, folder: Path) -> None:
    if (folder / "model.py").is_file():
        return
    msg = f"{path}: no model.py at its root"
    nested = next(folder.glob("*/model.py"), None)
    if nested is None:
        msg += "; a submission is a folder or zip file with model.py, which defines Model, at its root"
    elif path == folder:
        msg += f"; it is in {nested.parent.name}/, so give that folder"
    else:
        msg += f"; it is in {nested.parent.name}/, so pack the content of that folder, not the folder itself"
    raise UsageError(msg)


def load_model_class(folder: Path) -> Any:
    """Import ``model.py`` within ``surroundings(folder)`` and return ``Model``.

    Raises:
        SubmissionError: If the import fails or ``Model`` lacks ``fit`` or ``predict``.
        UsageError: If another ``model`` is found first.
    """
    module = call_submission("importing model.py", lambda: importlib.import_module("model"))
    if not any(Path(place).resolve().is_relative_to(folder.resolve()) for place in module_places(module)):
        msg = f"'import model' found {getattr(module, '__file__', module)} before the submission's model.py, as it "
        msg += "would in the official run; uninstall that module"
        raise UsageError(msg)
    model_class = getattr(module, "Model", None)
    for name in ("fit", "predict"):
        if not callable(getattr(model_class, name, None)):
            what = "no class Model" if model_class is None else f"no method Model.{name}"
            msg = f"model.py has {what}; the challenge calls Model(get_train_set, systematics), fit() "
            msg += "and predict(test_set)"
            raise SubmissionError(msg)
    return model_class


def start(folder: Path, events: EventFile | None) -> Any:
    """Import the submission within ``surroundings(folder)``, construct its ``Model`` and call ``fit``.

    Args:
        folder: Folder of the submission.
        events: Loads the training set.

    Returns:
        The fitted model.

    Raises:
        SubmissionError: If one of the three fails; ``details`` holds the traceback.
    """
    systematics = higgsml().systematics
    owner = call_submission("importing ingestion.py", lambda: importlib.import_module("ingestion").begin(events))
    model_class = load_model_class(folder)
    model = call_submission(
        "calling Model(get_train_set=..., systematics=...)",
        lambda: model_class(get_train_set=owner.load_train_set, systematics=systematics),
    )
    call_submission("calling fit()", lambda: model.fit())
    return model


def pickle_model(model: Any) -> bytes:
    """Pickle a fitted model as the official parallel program does, which deletes the training data first.

    Raises:
        SubmissionError: If it cannot be pickled.
    """
    try:
        with inside(logging.DEBUG):
            ingestion = sys.modules.get("ingestion")
            for owner in getattr(ingestion, "started", ()):
                vars(owner).pop("data", None)
            return pickle.dumps(model)
    except Exception as error:
        msg = f"the fitted model cannot be pickled ({type(error).__name__}: {error}), but the official parallel run "
        msg += "sends it to its workers so; do not keep open files or lambdas as attributes of Model"
        raise SubmissionError(msg, traceback.format_exc()) from error


def unpickle_model(pickled_model: bytes, folder: Path) -> Any:
    """Return a pickled model in another process, within ``surroundings(folder)``.

    Raises:
        SubmissionError: If it cannot be unpickled.
    """
    load_model_class(folder)  # makes sure that the pickle finds the submission's model and no other
    try:
        with inside(logging.DEBUG):
            return pickle.loads(pickled_model)
    except Exception as error:
        msg = f"the fitted model cannot be unpickled in a worker process: {type(error).__name__}: {error}"
        raise SubmissionError(msg, traceback.format_exc()) from error


def call_submission(what: str, call: Callable[[], Any]) -> Any:
    """Run a piece of the submission; what it prints goes to the log.

    Args:
        what: What is being done, for the message.
        call: Does it.

    Raises:
        SubmissionError: If the submission raises anything, with its traceback as ``details``.
    """
    try:
        with inside(logging.INFO):
            return call()
    except UsageError:
        raise  # the training data is at fault
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        msg = f"the submission failed when {what}: {reason}"
        raise SubmissionError(msg, traceback.format_exc()) from error
