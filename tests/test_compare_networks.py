"""Networks beside each other: equal ones are equal, a spoilt one is worse, and the program's errors."""

import json
import shutil

import numpy as np
import pytest

from scripts import compare_networks as program
from tests.conftest import ROOT
from tests.events import DATA, FIVE_WEIGHTS
from training.compare_networks import NETWORKS_FILE
from workshop.files import read_arrays, write_arrays


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """The network of five regions with half of its head gone."""
    folder = shutil.copytree(FIVE_WEIGHTS, tmp_path_factory.mktemp("spoilt") / "weights")
    arrays = read_arrays(folder / "network.npz")
    arrays["classes.weight"] = arrays["classes.weight"] * (np.arange(arrays["classes.weight"].shape[1]) % 2)
    write_arrays(folder / "network.npz", arrays)
    return folder


def test_program(spoilt, tmp_path, capsys):
    networks = [f"five={FIVE_WEIGHTS}", f"again={FIVE_WEIGHTS}", f"spoilt={spoilt}", f"shipped={ROOT / 'weights'}"]
    options = ["--data", str(DATA), "--rows", "60000", "--seed", "1", "--output", str(tmp_path)]
    assert program.main(["--networks", *networks, *options]) == 0
    result = json.loads((tmp_path / NETWORKS_FILE).read_text())
    for ratios in result["information"].values():
        assert ratios["five"] == ratios["again"] == {"ratio": 1.0, "error": 0.0}
        assert ratios["spoilt"]["ratio"] < 1.0 - 2 * ratios["spoilt"]["error"]
    one = result["networks"]["shipped"]
    assert one["information"]["inclusive"]["value"] > 0
    assert one["cross_entropy"] > result["networks"]["five"]["cross_entropy"] - 0.2
    printed = capsys.readouterr().out
    assert "five" in printed
    assert "inclusive" in printed


@pytest.mark.parametrize("networks", [["nowhere"], ["a=weights", "a=weights"]])
def test_bad_networks_are_refused(networks, tmp_path, capsys):
    options = ["--data", str(DATA), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(program.main(["--networks", *networks, *options]))
    assert stopped.value.code == 2
    assert "error" in capsys.readouterr().err
