"""A whole run: events and submission in, folder of results out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from harness.environment import describe_environment
from harness.experiment import Record, run_experiment
from harness.fast_pseudo_data import PseudoData
from harness.fingerprint import SUBMISSION_FILE, recognise, remember, snapshot
from harness.mapped import POOL_FOLDER
from harness.packing import MANIFEST
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


@dataclass(frozen=True)
class OpenRun:
    """A run in its folder, new or continued.

    Attributes:
        settings: Its settings.
        folder: Folder of the submission.
        output: Folder of the results.
        files: The submission's files before anything of it ran.
        fingerprint: By which the run knows the submission.
        results: The results so far.
    """

    settings: Settings
    folder: Path
    output: Path
    files: dict[str, str]
    fingerprint: str
    results: RunFolder

    @property
    def knows_weights(self) -> bool:
        """Whether the submission is one of this project's, whose ``predict`` counts events by their weights."""
        return (self.folder / MANIFEST).is_file()

    @property
    def seconds(self) -> list[float]:
        """What each finished pseudo-experiment took."""
        return [record.generation_seconds + record.predict_seconds for record in self.results.finished.values()]

    def lacks(self, job: Job) -> bool:
        """Return whether a pseudo-experiment is still to be done."""
        return (job.set, job.index) not in self.results.finished

    def add(self, record: Record) -> None:
        """Add a finished pseudo-experiment."""
        if not self.results.finished or not (self.output / SUBMISSION_FILE).exists():
            remember(self.fingerprint, self.files, snapshot(self.folder, without=self.output), self.output)
        self.results.append(record)

    def finish(self, seconds: float) -> None:
        """Write the result files once all pseudo-experiments are done, in so many seconds."""
        self.results.write_results(self.settings, seconds)


@contextmanager
def opened_run(options: RunOptions, events: EventFile) -> Iterator[OpenRun]:
    """Open the submission and the folder of a run.

    Raises:
        UsageError: If the input is wrong.
    """
    if options.workers < 1:
        msg = f"workers is {options.workers}, but must be at least 1"
        raise UsageError(msg)
    settings, output = options.settings, options.output.resolve()
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
            if results.finished:
                left = settings.sets * settings.experiments - len(results.finished)
                logger.info("%d pseudo-experiments are there already, %d to do", len(results.finished), left)
            yield OpenRun(settings, folder, output, files, str(identity["submission"]), results)


def run(options: RunOptions) -> None:
    """Run a submission on pseudo-experiments, or continue such a run.

    numpy's global random state is seeded before the submission is constructed, which the official program does not do,
    so that a submission that draws training rows gives the same results in each run.

    Raises:
        UsageError: If the input is wrong or the submission fails; what had finished before is kept.
    """
    began = time.monotonic()
    events = EventFile(options.data, options.test_size)
    with opened_run(options, events) as this:
        # The clock of earlier, killed parts is lost; what their pseudo-experiments took is not.
        spent = sum(this.seconds) / options.workers
        jobs = [job for job in options.settings.jobs() if this.lacks(job)]
        earlier = len(this.results.finished)
        done = tqdm(total=earlier + len(jobs), initial=earlier, disable=not options.progress, unit="exp")
        with done:
            for record in _records(options, events, this.folder, jobs, this.output / POOL_FOLDER):
                this.add(record)
                done.update()
        this.finish(time.monotonic() - began + spent)


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
            pool = PseudoData(events.load_test_set())
            for job in jobs:
                yield run_experiment(model, pool, job, systematics)
            return
        pickled_model = pickle_model(model)
        del model
    workers = min(options.workers, len(jobs))
    yield from run_in_workers(pickled_model, folder, events, jobs, systematics, workers, scratch)
