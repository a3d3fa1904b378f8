"""Counting on a cluster: two workers of their own processes, one of which is killed midway."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from sage.binned.counting import KINDS, Noise, choose_points
from sage.files.bundle import read_bundle
from tests.events import FIVE_WEIGHTS, ROOT, small_data
from training.counting import Counter, CountingJob, count_nodes


@contextmanager
def cluster(n_workers):
    """Start a scheduler here and workers as processes; give its address and the workers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from distributed import LocalCluster
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DASK_LOGGING__DISTRIBUTED": "critical",
    }
    with LocalCluster(
        n_workers=0,
        processes=False,
        dashboard_address=None,
        host="127.0.0.1",
        protocol="tcp",
        silence_logs=logging.CRITICAL,
    ) as scheduler:
        address = scheduler.scheduler_address
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--nthreads",
            "1",
            "--no-dashboard",
            "--no-nanny",
        ]
        workers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(n_workers)
        ]
        try:
            yield address, workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


@pytest.fixture
def counter(tmp_path):
    bundle = read_bundle(FIVE_WEIGHTS)
    folder = tmp_path / "events"
    folder.mkdir()
    return Counter(
        small_data(folder, 6000), 1.0, "tables", bundle.network, bundle.normalisation, Noise(1)
    ), bundle.regions


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_dies_loses_nothing_and_doubles_nothing(counter, tmp_path, monkeypatch):
    monkeypatch.setattr("training.counting.POINTS_PER_JOB", 4)
    monkeypatch.setattr("training.counting.ROWS_PER_JOB", 800)
    events, regions = counter
    points = choose_points(40, 1)
    here = count_nodes(events, points, regions, tmp_path / "here")
    n_jobs = len(list((tmp_path / "here").iterdir()))
    assert n_jobs == 10 * 8
    folder = tmp_path / "there"
    with cluster(2) as (address, workers):

        def kill():
            while len(list(folder.glob("*.npz"))) < n_jobs // 4:
                time.sleep(0.01)
            workers[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        there = count_nodes(events, points, regions, folder, scheduler=address)
        killer.join()
        assert workers[0].wait() < 0
    for name in KINDS:
        np.testing.assert_array_equal(there[name], here[name])
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in (tmp_path / "here").iterdir())
    # All is there, so neither a cluster nor this process counts again.
    monkeypatch.setattr(CountingJob, "__call__", lambda job: pytest.fail("counted again"))
    again = count_nodes(events, points, regions, folder)
    np.testing.assert_array_equal(again["counts"], here["counts"])
