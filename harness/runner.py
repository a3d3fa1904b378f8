"""A whole run: events and submission in, folder of results out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from harness.environment import describe_environment
from harness.experiment import Record, run_experiment
from harness.fingerprint import SUBMISSION_FILE, recognise, remember, snapshot
from harness.mapped import POOL_FOLDER
from harness.results import RunFolder
from harness.settings import Job, Settings
from harness.submission import opened, pickle_model, start
from harness.surroundings import surroundings
from harness.test_set import EventFile
from harness.workers import run_in_workers
from workshop.errors import UsageError

logger = logging.getLogger("sage.harness.runner")


@dataclass(frozen=True)
class RunOptions:
    """What to run and how.

    Attributes:
        data: Events file or folder.
        submission: Folder or zip file.
        output: Folder for the results.
        settings: Sets, seeds and switches.
        workers: Number of processes; the results do not depend on it.
        test_size: Rows (int) or fraction (float) of the events that are the test part.
        overwrite: Throw away what ``output`` holds from an earlier run.
        progress: Show a progress bar.
    """

    data: Path
    submission: Path
    output: Path
    settings: Settings
    workers: int = 1
    test_size: float = 0.3
    overwrite: bool = False
    progress: bool = False


def run(options: RunOptions) -> None:
    """Run a submission on pseudo-experiments, or continue such a run.

    numpy's global random state is seeded before the submission is constructed, which the official program does not do,
    so that a submission that draws training rows gives the same results in each run.

    Raises:
        UsageError: If the input is wrong or the submission fails; what had finished before is kept.
    """
    began = time.monotonic()
    if options.workers < 1:
        msg = f"workers is {options.workers}, but must be at least 1"
        raise UsageError(msg)
    settings = options.settings
    events = EventFile(options.data, options.test_size)
    output = options.output.resolve()
    with opened(options.submission) as folder:
        files = snapshot(folder, without=output)
        identity = {
            "format": 1,
            "data": events.fingerprint(),
            "submission": recognise(files, output),
            "seed": settings.seed,
            **settings.as_official(),
        }
        with RunFolder(output, identity, overwrite=options.overwrite) as results:
            results.write_settings(settings)
            results.write_environment(describe_environment(events, options.workers))
            earlier = list(results.finished.values())
            jobs = [job for job in settings.jobs() if (job.set, job.index) not in results.finished]
            if earlier:
                logger.info("%d pseudo-experiments are there already, %d to do", len(earlier), len(jobs))
            done = tqdm(total=len(earlier) + len(jobs), initial=len(earlier), disable=not options.progress, unit="exp")
            with done:
                for record in _records(options, events, folder, jobs, output / POOL_FOLDER):
                    if not results.finished or not (output / SUBMISSION_FILE).exists():
                        remember(identity["submission"], files, snapshot(folder, without=output), output)
                    results.append(record)
                    done.update()
            # The clock of earlier, killed parts is lost; what their pseudo-experiments took is not.
            spent = sum(record.generation_seconds + record.predict_seconds for record in earlier) / options.workers
            results.write_results(settings, time.monotonic() - began + spent)


def _records(
    options: RunOptions, events: EventFile, folder: Path, jobs: Sequence[Job], scratch: Path
) -> Iterator[Record]:
    """Fit the submission and yield the record of each job as it finishes."""
    if not jobs:
        return
    events.check_processes()
    systematics = options.settings.systematics
    np.random.seed(options.settings.seed)
    with surroundings(folder):
        model = start(folder, events)
        if options.workers == 1:
            test_set = events.load_test_set()
            for job in jobs:
                yield run_experiment(model, test_set, job, systematics)
            return
        pickled_model = pickle_model(model)
        del model
    workers = min(options.workers, len(jobs))
    yield from run_in_workers(pickled_model, folder, events, jobs, systematics, workers, scratch)
