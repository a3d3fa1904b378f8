"""Importing a submission and starting its ``Model``, as the official ingestion program does."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.archive import unpack
from harness.capture import captured_output
from harness.pseudo_experiments import systematics
from workshop.errors import SubmissionError, UsageError
from workshop.files import temporary_folder

logger = logging.getLogger("sage.harness.submission")

PROJECT = Path(__file__).resolve().parent.parent


@contextmanager
def opened(path: Path | str) -> Iterator[Path]:
    """Give the folder of a submission; a zip file is unpacked into a temporary folder that is removed afterwards.

    Arguments:
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


def search_path(folder: Path) -> list[str]:
    """Return what the official program appends to ``sys.path``: the folder and each of its sub-folders."""
    subfolders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("__")]
    return [str(path) for path in (folder, *sorted(subfolders))]


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Make a submission's modules importable; afterwards ``sys.path`` and ``sys.modules`` are as before.

    The submission comes behind the standard library and installed packages, as in the official run, but before this
    project: a zip file brings its own ``sage``, and that one must be tested rather than the one next to the harness.
    What the harness has imported from the project so far keeps working; it is only hidden from the submission.
    """
    saved_path = list(sys.path)
    project = [entry for entry in sys.path if Path(entry or ".").resolve() == PROJECT]
    sys.path[:] = [entry for entry in sys.path if entry not in project]
    sys.path.extend([*search_path(folder), str(PROJECT)])
    provided = {path.stem for entry in search_path(folder) for path in Path(entry).glob("*.py")}
    provided |= {path.name for entry in search_path(folder) for path in Path(entry).iterdir() if path.is_dir()}
    hidden = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in provided and _belongs_elsewhere(name, module, folder)
    }
    for name in hidden:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = saved_path
        if not PROJECT.is_relative_to(folder):
            for name in [name for name, module in sys.modules.items() if _lies_in(module, folder)]:
                del sys.modules[name]
        sys.modules.update(hidden)
        importlib.invalidate_caches()


def _belongs_elsewhere(name: str, module: ModuleType, folder: Path) -> bool:
    """Whether a loaded module would be taken for one of the submission's though it is not.

    That can be the project's own package, or ``model`` of another submission.
    """
    if _lies_in(module, folder):
        return False
    own = _lies_in(module, PROJECT) and name.partition(".")[0] not in ("harness", "scripts")
    return own or name == "model"


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts


def load_model_class(folder: Path) -> Any:
    """Import ``model.py`` inside ``importable(folder)`` and return ``Model``.

    Raises:
        SubmissionError: If the import fails or ``Model`` lacks ``fit`` or ``predict``.
        UsageError: If another ``model`` is found first.
    """
    module = call_submission("importing model.py", lambda: importlib.import_module("model"))
    if not _lies_in(module, folder):
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


def start(folder: Path, get_train_set: Callable[..., Any]) -> Any:
    """Import the submission inside ``importable(folder)``, construct its ``Model`` and call ``fit``.

    Arguments:
        folder: Folder of the submission.
        get_train_set: Loads the training set.

    Returns:
        The fitted model.

    Raises:
        SubmissionError: If one of the three fails; ``details`` holds the traceback.
    """
    model_class = load_model_class(folder)
    model = call_submission(
        "calling Model(get_train_set=..., systematics=...)",
        lambda: model_class(get_train_set=get_train_set, systematics=systematics),
    )
    call_submission("calling fit()", lambda: model.fit())
    return model


def call_submission(what: str, call: Callable[[], Any]) -> Any:
    """Run a piece of the submission; what it prints goes to the log.

    Arguments:
        what: What is being done, for the message.
        call: Does it.

    Raises:
        SubmissionError: If the submission raises anything, with its traceback as ``details``.
    """
    try:
        with captured_output(logging.INFO):
            return call()
    except UsageError:
        raise  # the training data is at fault
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        msg = f"the submission failed when {what}: {reason}"
        raise SubmissionError(msg, traceback.format_exc()) from error
