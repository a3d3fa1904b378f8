"""What the calorimeters measure, and energy flow.

Towers are measured with the card's resolution; energy flow then compares each tower with the tracks that point to it.
Jets and missing momentum use the towers, isolation uses energy flow (modules ECal and HCal of the card).
"""

from __future__ import annotations

import math

import numpy as np

from training.simulation.card import Card, Steps
from training.simulation.compilation import compiled
from training.simulation.draws import log_normal, uniform
from training.simulation.towers import LAYER_BIT, NO_TOWER, bisect, tower_edges
from training.simulation.tracking import energy_of


@compiled
def energy_resolution(steps: Steps, eta: float, energy: float) -> float:
    """Resolution sqrt((a E)^2 + b^2 E + c^2) in GeV at this |eta|; 0 outside of all steps."""
    for i in range(len(steps)):
        if abs(eta) <= steps[i, 0]:
            return math.sqrt((steps[i, 1] * energy) ** 2 + steps[i, 2] ** 2 * energy + steps[i, 3] ** 2)
    return 0.0


@compiled
def measure_towers(
    card: Card, towers: np.ndarray, energies: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measure the energies of towers.

    The measured energy E is log-normal around the true one with the resolution at the true one; it is set to 0 if it
    is below the layer's smallest energy or below ``significance_min`` times the resolution at E. The direction is
    uniform within the tower.

    Args:
        card: The detector.
        towers: Numbers of the towers, shape (n,).
        energies: True energies in GeV, shape (n,).
        state: Stream of random numbers.

    Returns:
        Measured energy and resolution in GeV, pseudorapidity and azimuth, each of shape (n,).
    """
    n = len(towers)
    measured, sigmas, etas, phis = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        layer = card.hcal if towers[i] >> LAYER_BIT else card.ecal
        low, high, left, right = tower_edges(card, towers[i])
        centre = 0.5 * (low + high)
        energy = log_normal(energies[i], energy_resolution(layer.resolution, centre, energies[i]), state)
        sigmas[i] = energy_resolution(layer.resolution, centre, energy)
        kept = energy >= layer.energy_min and energy >= layer.significance_min * sigmas[i]
        measured[i] = energy if kept else 0.0
        etas[i] = low + (high - low) * uniform(state)
        phis[i] = left + (right - left) * uniform(state)
    return measured, sigmas, etas, phis


@compiled
def energy_flow(
    card: Card, towers: np.ndarray, measured: np.ndarray, sigmas: np.ndarray, tracks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare towers with the tracks that point to them.

    With T the energy of a tower's tracks and t its uncertainty (relative resolutions of pt times energies, in
    quadrature), the excess E - T is a neutral object if it is above the layer's smallest energy and above
    ``significance_min`` sqrt(t^2 + sigma^2). Otherwise the tracks are scaled together so that their energy is the
    mean of T and E, weighted with 1 / t^2 and 1 / sigma^2.

    Args:
        card: The detector.
        towers: Numbers of the towers, rising, shape (n,).
        measured: Measured energies in GeV, shape (n,).
        sigmas: Resolutions in GeV, shape (n,).
        tracks: Tracks found, ``towers.TRACK``, shape (m,).

    Returns:
        Neutral energy of each tower in GeV and scale of the pt of tracks that point to it, each of shape (n,).
    """
    sums, variances = np.zeros(len(towers)), np.zeros(len(towers))
    for track in tracks:
        if track.tower != NO_TOWER:
            place, energy = bisect(towers, track.tower, len(towers)), energy_of(track)
            sums[place] += energy
            variances[place] += (track.resolution * energy) ** 2
    neutral, scales = np.zeros(len(towers)), np.ones(len(towers))
    for i in range(len(towers)):
        layer = card.hcal if towers[i] >> LAYER_BIT else card.ecal
        excess = max(measured[i] - sums[i], 0.0)
        limit = layer.significance_min * math.sqrt(variances[i] + sigmas[i] ** 2)
        # Delphes gives an exact measurement no weight at all.
        by_tracks = 1.0 / variances[i] if variances[i] > 0.0 else 0.0
        by_tower = 1.0 / sigmas[i] ** 2 if sigmas[i] > 0.0 else 0.0
        if excess > layer.energy_min and excess > limit:
            neutral[i] = excess
        elif sums[i] > 0.0 and by_tracks + by_tower > 0.0:
            scales[i] = (by_tracks + by_tower * measured[i] / sums[i]) / (by_tracks + by_tower)
    return neutral, scales
