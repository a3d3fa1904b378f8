"""Perceptrons: kernel, numpy and torch agree; beside the graph they add to its logits."""

import numpy as np
import pytest
import torch

from sage.errors import EngineError, WeightsError
from sage.network.dense import DualBranchNetwork, ScoreNetwork, from_arrays
from sage.network.graph import PUBLISHED, WITH_DITAU
from sage.network.library import INSTRUCTION_SETS, LIBRARY, load
from sage.network.library_hash import SHA256
from sage.network.native import NativeNetwork
from sage.network.parameters import SCORES, check_networks, check_parameters, stack, unstack
from sage.network.perceptron import Perceptron, shapes, widths_of

N_INPUTS = len(WITH_DITAU.columns)


def arrays_of(network):
    return {name: value.numpy() for name, value in network.state_dict().items()}


def some_inputs(n, seed=1, inputs=N_INPUTS):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, inputs)).astype(np.float32), rng.random((n, 2)) < 0.5


@pytest.fixture(scope="module")
def library():
    return load(LIBRARY, SHA256)


@pytest.mark.parametrize("widths", [(), (8,), (64, 64), (48, 128, 16), (256,)])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_kernel_numpy_and_torch_agree(library, widths, n):
    torch.manual_seed(3)
    network = ScoreNetwork(WITH_DITAU, widths)
    values = 3 * some_inputs(n)[0]
    expected = network(torch.from_numpy(values), torch.zeros(n, 2)).detach().numpy()
    assert expected.shape == (n, 3)
    parameters = arrays_of(network)
    assert widths_of(parameters) == widths
    np.testing.assert_allclose(Perceptron(parameters)(values), expected, atol=2e-6, rtol=1e-5)
    best = library.sage_network_instruction_set()
    for name in INSTRUCTION_SETS[1 : best + 1]:
        found = Perceptron(parameters, name, library)(values)
        np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


def test_results_do_not_depend_on_cuts_and_layout(library):
    perceptron = Perceptron(arrays_of(ScoreNetwork(WITH_DITAU, (16, 8))), library=library)
    values = some_inputs(501)[0]
    whole = perceptron(values)
    np.testing.assert_array_equal(perceptron(np.asfortranarray(values)), whole)
    np.testing.assert_array_equal(np.concatenate([perceptron(values[:13]), perceptron(values[13:])]), whole)


@pytest.mark.parametrize("bad", [(64, 12), (4,), (264,), (8, 8, 8, 8)])
def test_widths_the_kernel_does_not_have_are_refused(bad):
    with pytest.raises(WeightsError, match="does not fit this architecture"):
        check_parameters(arrays_of(DualBranchNetwork(WITH_DITAU, bad)), WITH_DITAU)


def test_other_inputs_are_refused(library):
    perceptron = Perceptron(arrays_of(ScoreNetwork(WITH_DITAU, (8,))), library=library)
    with pytest.raises(ValueError, match=r"shape \(5, 35\), expected \(n, 45\)"):
        perceptron(some_inputs(5, inputs=35)[0])
    perceptron._sizes[1] = 12
    with pytest.raises(EngineError, match="refused"):
        perceptron(some_inputs(5)[0])


@pytest.mark.parametrize("inputs", [PUBLISHED, WITH_DITAU], ids=lambda inputs: inputs.name)
def test_beside_the_graph(inputs):
    torch.manual_seed(5)
    network = DualBranchNetwork(inputs, (64, 32))
    parameters = arrays_of(network)
    check_parameters(parameters, inputs)
    values, jets = some_inputs(777, inputs=len(inputs.columns))
    with torch.inference_mode():
        expected = from_arrays(parameters)(torch.from_numpy(values), torch.from_numpy(jets.astype(np.float32))).numpy()
    found = NativeNetwork(parameters).logits(values, jets)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    alone = {name: value for name, value in parameters.items() if not name.startswith("perceptron")}
    beside = Perceptron(parameters)(values)
    np.testing.assert_allclose(found - NativeNetwork(alone).logits(values, jets), beside, atol=2e-6)
    probabilities = NativeNetwork(parameters).probabilities(values, jets)
    np.testing.assert_allclose(probabilities, np.exp(found) / np.exp(found).sum(axis=1, keepdims=True), atol=1e-6)


def test_nan_goes_through_the_kernel_as_through_the_graph():
    parameters = arrays_of(DualBranchNetwork(WITH_DITAU, (8,)))
    values, jets = some_inputs(N_INPUTS)
    values[np.arange(N_INPUTS), np.arange(N_INPUTS)] = np.nan
    assert np.isnan(NativeNetwork(parameters).logits(values, jets)).all()


def test_dropout_acts_in_training_only():
    torch.manual_seed(6)
    network = DualBranchNetwork(WITH_DITAU, (64, 64), drop=0.5)
    values, jets = (torch.from_numpy(part.astype(np.float32)) for part in some_inputs(50))
    assert not torch.equal(network(values, jets), network(values, jets))
    network.eval()
    assert torch.equal(network(values, jets), network(values, jets))


def test_networks_that_vote_are_stacked_and_checked():
    members = [arrays_of(DualBranchNetwork(WITH_DITAU, (16,))) for _ in range(3)]
    scores = [arrays_of(ScoreNetwork(WITH_DITAU, (8,))) for _ in range(2)]
    together = stack(members) | {SCORES + name: value for name, value in stack(scores).items()}
    check_networks(together, WITH_DITAU)
    for expected, found in zip(members, unstack(stack(members)), strict=True):
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
    del together[f"{SCORES}perceptron.1.bias"]
    with pytest.raises(WeightsError, match=r"different numbers of networks|does not fit"):
        check_networks(together, WITH_DITAU)


def test_shapes_say_what_the_modules_have():
    found = {name: tuple(value.shape) for name, value in ScoreNetwork(WITH_DITAU, (24, 8)).state_dict().items()}
    assert found == shapes((N_INPUTS, 24, 8, 3))
