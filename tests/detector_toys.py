"""Toy events and cards for tests of the detector; they need no generator."""

from __future__ import annotations

import math

import numpy as np

from training.simulation.card import ATLAS, Card
from training.simulation.event import EventBatch, Particles, Taus

Row = tuple[int, int, float, float, float, float]
"""A particle: pdg, charge, pt and mass in GeV with eta, phi between: (pdg, charge, pt, eta, phi, mass)."""

NO_TAUS = Taus(*np.zeros((8, 0)))


def particles(rows: list[Row]) -> Particles:
    """Particles from the centre of the detector, rows (pdg, charge, pt, eta, phi, mass)."""
    pdg, charge, pt, eta, phi, mass = np.array(rows, dtype=float).reshape(-1, 6).T
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    e = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    zeros = np.zeros(len(pt))
    return Particles(pdg.astype(np.int32), px, py, pz, e, zeros, zeros, zeros, charge.astype(np.int8))


def batch_of(*events: list[Row]) -> EventBatch:
    return EventBatch.from_events([(particles(event), NO_TAUS) for event in events])


def seeds(n: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + n, dtype=np.uint64)


def toy_events(n: int, seed: int = 7) -> EventBatch:
    """Soft pions and photons, a muon or electron, a tau-like jet of three pions and two hard jets."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(n):
        rows = []
        for centre, hard, count in ((None, 1.0, 200), ((rng.uniform(-2, 2), rng.uniform(-3, 3)), 15.0, 12)):
            for _ in range(count):
                eta, phi = centre if centre else (rng.uniform(-5, 5), rng.uniform(-3, 3))
                kind = [(211, 1, 0.14), (-211, -1, 0.14), (22, 0, 0.0), (2112, 0, 0.94)][rng.integers(4)]
                place = eta + rng.normal(0, 0.1), phi + rng.normal(0, 0.1)
                rows.append((*kind[:2], rng.exponential(hard) + 0.2, *place, kind[2]))
        axis = rng.uniform(-2, 2), rng.uniform(-3, 3)
        for charge, pt in ((1, 12.0), (1, 9.0), (-1, 7.0)):
            rows.append((211 * charge, charge, pt, axis[0] + rng.normal(0, 0.02), axis[1] + rng.normal(0, 0.02), 0.14))
        rows.append((13 if i % 2 else 11, -1, rng.uniform(21, 60), rng.uniform(-2.4, 2.4), rng.uniform(-3, 3), 0.1))
        event = particles(rows)
        p = event.px[-4:-1].sum(), event.py[-4:-1].sum(), event.pz[-4:-1].sum(), event.e[-4:-1].sum()
        events.append((event, Taus(*(np.array([x]) for x in (*p, math.hypot(*p[:2]) * 1.3, axis[0], 1, 3)))))
    return EventBatch.from_events(events)


def perfect_card() -> Card:
    """A card without inefficiency, resolution or thresholds."""
    tracker = ATLAS.muon_tracks._replace(
        efficiency=np.array([[9.0, 0.0, 1.0]]), resolution=np.array([[9.0, 0.0, 0.0, 0.0]])
    )
    exact = {"resolution": np.array([[9.0, 0.0, 0.0, 0.0]]), "energy_min": 0.0, "significance_min": 0.0}
    return ATLAS._replace(
        hadron_tracks=tracker,
        electron_tracks=tracker,
        muon_tracks=tracker,
        ecal=ATLAS.ecal._replace(**exact),
        hcal=ATLAS.hcal._replace(**exact),
    )


def assert_equal(first: object, second: object) -> None:
    """Compare dataclasses of arrays bit for bit."""
    for name, value in vars(first).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(second, name), err_msg=name)
        else:
            assert_equal(value, getattr(second, name))
