"""The dense network against its torch-geometric twin."""

import warnings

import numpy as np
import pytest
import torch

from sage.challenge.features import derived
from sage.challenge.shifts import select, shift
from sage.errors import WeightsError
from sage.network.dense import DualBranchNetwork, class_probabilities, from_arrays
from sage.network.graph import INPUT_SETS, INPUTS, PUBLISHED, Normalisation, jets_present, normalise, raw_inputs
from sage.network.parameters import inputs_of
from tests.events import columns_of, embedded_frame, odd_frame, real_frame

with warnings.catch_warnings():
    # torch-geometric still compiles its helpers with torch.jit when it is imported.
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
    from training.graph_oracle import OracleNetwork, build_graphs

CHOICES = pytest.mark.parametrize("inputs", INPUT_SETS.values(), ids=INPUT_SETS)
FRAMES = {"real": real_frame, "embedded": lambda: embedded_frame(700), "odd": odd_frame}


def random_network(scale=0.3, inputs=PUBLISHED):
    network = DualBranchNetwork(inputs)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def twin(network):
    oracle = OracleNetwork(inputs_of(network.state_dict()))
    oracle.load_state_dict(network.state_dict())
    return oracle


def random_inputs(n=200, inputs=PUBLISHED):
    """Draw inputs with all combinations of jets."""
    generator = torch.Generator().manual_seed(8)
    values = torch.randn(n, len(inputs.columns), generator=generator)
    jets = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).repeat(n // 4, 1)
    return values, jets


def event_inputs(frame, inputs=PUBLISHED):
    """Compute normalised inputs of real or simulated events; odd jets survive, since they pass no threshold."""
    events, _ = select(shift(columns_of(frame)))
    values, defined = raw_inputs(events, derived(events), inputs)
    real, _ = select(shift(columns_of(real_frame())))
    reference, known = raw_inputs(real, derived(real), inputs)
    masked = np.ma.masked_array(reference, ~known)
    constants = Normalisation(masked.mean(axis=0).data.astype(np.float32), masked.std(axis=0).data.astype(np.float32))
    jets = jets_present(events)
    return torch.from_numpy(normalise(values, defined, constants)), torch.from_numpy(jets.astype(np.float32))


@CHOICES
@pytest.mark.parametrize("name", ["random", *FRAMES])
def test_logits_equal_those_of_the_oracle(name, inputs):
    values, jets = random_inputs(inputs=inputs) if name == "random" else event_inputs(FRAMES[name](), inputs)
    network = random_network(inputs=inputs)
    with torch.no_grad():
        found, expected = network(values, jets), twin(network)(values, jets)
    assert expected.shape == (len(values), 4)
    if name != "odd":
        assert (expected.max(dim=0).values - expected.min(dim=0).values).min() > 1.0
    # Among the odd events is a tau of 1.5 TeV, whose logits are so large that float32 holds fewer decimals.
    size = expected.abs().amax(dim=1, keepdim=True).clamp_min(1.0) if name == "odd" else 1.0
    assert ((found - expected).abs() / size).max() < 1e-5


def test_all_jet_states_occur():
    states = {tuple(state) for state in event_inputs(odd_frame())[1].int().tolist()}
    assert states == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert {tuple(state) for state in event_inputs(real_frame())[1].int().tolist()} >= {(0, 0), (1, 0), (1, 1)}


def test_event_with_two_jets_counted_but_no_subleading_one():
    columns = columns_of(odd_frame())
    rows = (columns["PRI_n_jets"] == 2) & (columns["PRI_jet_subleading_pt"] < 0) & (columns["PRI_jet_leading_pt"] > 0)
    assert rows.any()
    values, jets = event_inputs(odd_frame()[rows])
    network = random_network()
    torch.testing.assert_close(network(values, jets), twin(network)(values, jets), rtol=0, atol=1e-5)


def test_absent_jets_do_not_matter():
    values, _ = random_inputs()
    jets = torch.zeros(len(values), 2)
    other = values.clone()
    for i, name in enumerate(INPUTS):
        if "jet_" in name and name != "PRI_jet_all_pt" and name.startswith(("PRI", "dr")):
            other[:, i] = 17.0
    network = random_network()
    assert torch.equal(network(values, jets), network(other, jets))


@CHOICES
def test_gradients_reach_every_parameter_and_agree(inputs):
    values, jets = event_inputs(embedded_frame(400), inputs)
    network = random_network(inputs=inputs)
    oracle = twin(network)
    labels = torch.arange(len(values)) % 4
    for module in (network, oracle):
        torch.nn.functional.cross_entropy(module(values, jets), labels).backward()
    expected = dict(oracle.named_parameters())
    for name, parameter in network.named_parameters():
        largest = expected[name].grad.abs().max()
        assert largest > 1e-8, name
        assert parameter.grad.abs().max() > 1e-8, name
        assert (parameter.grad - expected[name].grad).abs().max() <= 1e-5 * largest, name


def test_oracle_has_no_node_for_an_absent_jet():
    values, jets = random_inputs(8)
    for branch in PUBLISHED.branches:
        graphs = build_graphs(branch, values, jets)
        assert torch.bincount(graphs.event).tolist() == [3, 4, 4, 5, 3, 4, 4, 5]
        assert (graphs.event[graphs.edge_index[0]] == graphs.event[graphs.edge_index[1]]).all()
        full = int((graphs.event[graphs.edge_index[0]] == 3).sum())
        assert full == 2 * len(branch.edges)


def test_events_do_not_see_each_other():
    values, jets = random_inputs()
    network = random_network()
    together = network(values, jets)
    order = torch.randperm(len(values))
    torch.testing.assert_close(network(values[order], jets[order]), together[order], rtol=0, atol=1e-6)


def test_chunk_size_does_not_matter():
    values, jets = event_inputs(embedded_frame(700))
    network = from_arrays({name: value.numpy() for name, value in random_network().state_dict().items()})
    inputs = values.numpy(), jets.numpy() > 0
    expected = class_probabilities(network, *inputs, chunk=len(values))
    np.testing.assert_allclose(expected.sum(axis=1), 1.0, atol=1e-6)
    for chunk in (1, 13, 256):
        assert np.abs(class_probabilities(network, *inputs, chunk=chunk) - expected).max() <= 1e-6


@CHOICES
def test_from_arrays_gives_back_the_network(inputs):
    network = random_network(inputs=inputs)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    values, jets = random_inputs(inputs=inputs)
    rebuilt = from_arrays(arrays)
    assert torch.equal(rebuilt(values, jets), network(values, jets))
    assert not rebuilt.training
    assert not any(parameter.requires_grad for parameter in rebuilt.parameters())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_from_arrays_refuses_what_does_not_fit(change):
    arrays = {name: value.numpy() for name, value in random_network().state_dict().items()}
    if change == "missing":
        del arrays["gate.bias"]
    elif change == "unknown":
        arrays["gate.extra"] = arrays["gate.bias"]
    else:
        arrays["gate.bias"] = arrays["gate.bias"][:-1]
    with pytest.raises(WeightsError, match=r"network parameter 'gate\.(bias|extra)' does not fit"):
        from_arrays(arrays)
