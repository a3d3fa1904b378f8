"""The submission in the hands of the ingestion class of the package HiggsML, which differs from the official program.

It passes ``model_type``, pluralises the keys of the answers and draws the energy scales ten times too narrow. The last
does not matter here: every answer is compared with that of another ``Model`` on the same events.
"""

import json
import warnings

import numpy as np
import pytest

from model import Model
from sage.challenge.nuisances import NAMES, PROCESSES
from studies.faults import scale_process
from tests.events import DATA_FILE, FIVE_WEIGHTS, METADATA_FILE, embedded_frame, root_logger_kept

SETS, EXPERIMENTS, SEED = 2, 2, 17
MUS = [0.4, 2.1]
"""Given, because their program draws them from an unseeded generator."""
RATE = 0.02
SETTINGS = {
    "systematics": dict.fromkeys(NAMES, True),
    "num_pseudo_experiments": EXPERIMENTS,
    "num_of_sets": SETS,
    "ground_truth_mus": MUS,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Embedded events with a part of the rate, so that pseudo-experiments are quick."""
    folder = tmp_path_factory.mktemp("input")
    embedded_frame(20_000).to_parquet(folder / DATA_FILE, row_group_size=8_000, index=False)
    (folder / METADATA_FILE).write_text(json.dumps({"total_rows": 20_000, "sum_weights": RATE * 1_051_433.0}))
    return folder


def at_rate(model):
    """Let a model expect as many events as there are."""
    for process in PROCESSES:
        model.bundle = scale_process(model.bundle, process, RATE)
    return model


class Recorded(Model):
    """The submission, which remembers what it was given and what it answered."""

    def __init__(self, get_train_set, systematics, **other):
        super().__init__(get_train_set, systematics, weights=FIVE_WEIGHTS, **other)
        self.other = other
        self.calls = []
        at_rate(self)

    def predict(self, test_set):
        answer = super().predict(test_set)
        self.calls.append((test_set["data"].copy(), np.array(test_set["weights"]), dict(answer)))
        assert self.last_result.status != "fallback"
        return answer


def test_answers_are_those_of_the_model_alone(data, tmp_path):
    with root_logger_kept():
        from HiggsML.datasets import Data
        from HiggsML.ingestion import Ingestion
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, RuntimeWarning):
            warnings.filterwarnings("ignore", category=category, module=r"HiggsML\.")
        ingestion = Ingestion(Data(str(data)))
        ingestion.data.load_test_set()
        ingestion.init_submission(Recorded, model_type="NN")
        model = ingestion.model
        assert model.other == {"model_type": "NN"}
        ingestion.fit_submission()
        # Their loader works for ``fit``, which finds the events too few to replace the bundled tables.
        assert model.fit_report["rows"] == 700
        assert not model.fit_report["adopted"]
        ingestion.predict_submission(SETTINGS, initial_seed=SEED)
    ingestion.process_results_dict()
    ingestion.save_result(str(tmp_path))

    alone = at_rate(Model(weights=FIVE_WEIGHTS))
    answers = [alone.predict({"data": frame, "weights": weights}) for frame, weights, _ in model.calls]
    assert answers == [answer for *_, answer in model.calls]
    assert len({answer["mu_hat"] for answer in answers}) == SETS * EXPERIMENTS
    assert all(len(frame) > 18_000 for frame, *_ in model.calls)
    written = [json.loads((tmp_path / f"result_{number}.json").read_text()) for number in range(SETS)]
    assert list(written[0]) == ["mu_hats", "delta_mu_hats", "p16s", "p84s"]
    for theirs, ours in (("mu_hats", "mu_hat"), ("delta_mu_hats", "delta_mu_hat"), ("p16s", "p16"), ("p84s", "p84")):
        values = [value for result in written for value in result[theirs]]
        assert sorted(values) == sorted(answer[ours] for answer in answers)
