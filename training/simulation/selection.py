"""The selection: one lepton, one jet tagged as hadronic tau, opposite charges -> the 16 primary quantities.

It is that of the challenge's macro ``scripts/preProcess.cpp`` (repository FAIR-Universe/genHEPdata), before the
thresholds that follow the nuisance parameters (those are the reader's).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from sage.challenge.shifts import PRIMARIES, UNDEFINED
from sage.challenge.shifts import Columns as PrimaryColumns
from training.simulation.compilation import compiled
from training.simulation.reco import JET, LEPTON, Jets, Leptons, RecoBatch

COUNTED_LEPTON_PT = 15.0
"""Leptons above this pt in GeV are counted; there must be exactly one."""

LEPTON_PT = 20.0
"""Smallest pt of that lepton, GeV."""

JET_PT = 20.0
"""Smallest calibrated pt of jets and of the tau candidate, GeV."""

NO_LEPTON = -1
DECIMALS = 3
"""Primary quantities are rounded to this many decimals."""


@dataclass(frozen=True)
class Selected:
    """Selected rows; in the weighted variant an event may give several.

    Args:
        columns: The 16 primaries by name, each of shape (n,), float32; momenta in GeV.
        events: Row of the event in the batch, shape (n,), int64.
        probability: Probability that the tagger chooses this candidate and no other jet, shape (n,), float64.
        jets: Row of the candidate in the batch's jets, shape (n,), int64.
        leptons: Row of the lepton in the batch's leptons, shape (n,), int64.
    """

    columns: PrimaryColumns
    events: np.ndarray
    probability: np.ndarray
    jets: np.ndarray
    leptons: np.ndarray

    def __len__(self) -> int:
        return len(self.events)


def select(reco: RecoBatch) -> Selected:
    """Select events with the tags that the events' seeds have drawn; at most one row per event, probability 1."""
    return _select(reco, reco.jets.tagged.astype(np.float64))


def select_candidates(reco: RecoBatch) -> Selected:
    """Select every candidate with the probability that it alone is tagged: p_i times the product of the 1 - p_j.

    Summed with these weights the rows have the same expectation as those of ``select``, with far less variance where
    mis-tags matter. Rows of one event are not independent.
    """
    return _select(reco, reco.jets.tag_probability)


def _select(reco: RecoBatch, tags: np.ndarray) -> Selected:
    leptons, jets = _rows(reco.leptons, LEPTON), _rows(reco.jets, JET)
    rows, events, chosen, probability = _select_all(
        leptons, reco.lepton_offsets, jets, reco.jet_offsets, tags, reco.met, reco.met_phi
    )
    rounded = np.round(rows, DECIMALS).astype(np.float32)
    columns = {name: rounded[:, i] for i, name in enumerate(PRIMARIES)}
    return Selected(columns, events, probability, chosen[:, 0], chosen[:, 1])


def _rows(columns: Leptons | Jets, dtype: np.dtype) -> np.ndarray:
    """Turn columns into rows of the same names."""
    rows = np.empty(len(columns), dtype)
    for field in fields(columns):
        rows[field.name] = getattr(columns, field.name)
    return rows


@compiled
def pick_lepton(leptons: np.ndarray) -> int:
    """Find the event's only electron or muon above 15 GeV.

    The macro asks for at most one of each kind and for different numbers of them, which is one lepton in all.

    Args:
        leptons: Leptons, LEPTON, shape (n,).

    Returns:
        Its place, NO_LEPTON if the event fails, also if its pt is below 20 GeV.
    """
    picked = NO_LEPTON
    for i in range(len(leptons)):
        if leptons[i].pt > COUNTED_LEPTON_PT:
            if picked != NO_LEPTON:
                return NO_LEPTON
            picked = i
    return picked if picked != NO_LEPTON and leptons[picked].pt >= LEPTON_PT else NO_LEPTON


@compiled
def only_tag(tags: np.ndarray, chosen: int) -> float:
    """Probability that of independent tags with these probabilities the chosen one is there and no other."""
    probability: float = tags[chosen]
    for i in range(len(tags)):
        probability *= 1.0 if i == chosen else 1.0 - tags[i]
    return probability


@compiled
def fill_primaries(row: np.ndarray, lepton: np.record, jets: np.ndarray, chosen: int) -> None:
    """Fill the primary quantities of an event but for the missing momentum.

    Args:
        row: Shape (16,), in the order of ``PRIMARIES``; jets that do not exist are UNDEFINED.
        lepton: The lepton, LEPTON.
        jets: Jets in order of falling pt, JET, shape (n,).
        chosen: Place of the tau candidate among them.
    """
    row[0], row[1], row[2] = lepton.pt, lepton.eta, lepton.phi
    row[3], row[4], row[5] = jets[chosen].pt, jets[chosen].eta, jets[chosen].phi
    row[6:12] = UNDEFINED
    n_jets, sum_pt = 0, 0.0
    for i in range(len(jets)):
        if i != chosen:
            if n_jets < 2:
                first = 6 + 3 * n_jets
                row[first], row[first + 1], row[first + 2] = jets[i].pt, jets[i].eta, jets[i].phi
            n_jets += 1
            sum_pt += jets[i].pt
    row[12], row[13] = n_jets, sum_pt


@compiled
def _select_all(
    leptons: np.ndarray,
    lepton_offsets: np.ndarray,
    jets: np.ndarray,
    jet_offsets: np.ndarray,
    tags: np.ndarray,
    met: np.ndarray,
    met_phi: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n, 16), their events (n,), rows of jet and lepton (n, 2) and probabilities (n,) of all candidates."""
    size, n = len(jets), 0
    rows, events, probabilities = np.empty((size, 16)), np.empty(size, np.int64), np.empty(size)
    chosen = np.empty((size, 2), np.int64)
    for event in range(len(met)):
        first_lepton, first = lepton_offsets[event], jet_offsets[event]
        picked = pick_lepton(leptons[first_lepton : lepton_offsets[event + 1]])
        if picked == NO_LEPTON:
            continue
        lepton, last = leptons[first_lepton + picked], jet_offsets[event + 1]
        while last > first and jets[last - 1].pt < JET_PT:  # jets are in order of falling pt
            last -= 1
        for i in range(last - first):
            probability = only_tag(tags[first:last], i)
            if probability > 0.0 and jets[first + i].charge + lepton.charge == 0:
                fill_primaries(rows[n], lepton, jets[first:last], i)
                rows[n, 14], rows[n, 15] = met[event], met_phi[event]
                events[n], probabilities[n] = event, probability
                chosen[n, 0], chosen[n, 1] = first + i, first_lepton + picked
                n += 1
    return rows[:n], events[:n], chosen[:n], probabilities[:n]
