"""Random numbers inside compiled code: one independent stream per event and purpose.

A stream is splitmix64 (Steele, Lea, Flood, OOPSLA 2014), whose state is a single 64-bit counter. It starts from a
hash of the event's seed and the number of the purpose, so what one module draws depends neither on other events nor
on how much another module drew.
"""

from __future__ import annotations

import math

import numpy as np

from training.simulation.compilation import compiled

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""Odd step of the counter: the golden ratio in 64 bits."""

TRACKS, TOWERS, OBJECTS, TAGS = 1, 2, 3, 4
"""Purposes of streams."""


@compiled
def mix(bits: np.uint64) -> np.uint64:
    """Hash 64 bits to 64 bits, one to one: the finaliser of splitmix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@compiled
def stream(seed: np.uint64 | int, purpose: int) -> np.ndarray:
    """Start a stream; its state, shape (1,), uint64, moves on with each draw."""
    state = np.empty(1, np.uint64)
    state[0] = mix(mix(np.uint64(seed)) + GAMMA * np.uint64(purpose))
    return state


@compiled
def uniform(state: np.ndarray) -> float:
    """Draw from (0, 1), both ends excluded."""
    state[0] += GAMMA
    return (float(mix(state[0]) >> np.uint64(12)) + 0.5) * 2.0**-52


@compiled
def normal(state: np.ndarray) -> float:
    """Draw from N(0, 1): sqrt(-2 ln u) cos(2 pi v), Box and Muller."""
    radius = math.sqrt(-2.0 * math.log(uniform(state)))
    return radius * math.cos(2.0 * math.pi * uniform(state))


@compiled
def log_normal(mean: float, sigma: float, state: np.ndarray) -> float:
    """Draw from the log-normal distribution of this mean and standard deviation; 0 if the mean is not positive.

    exp(ln mean - b^2 / 2 + b n) with b^2 = ln(1 + sigma^2 / mean^2) and n from N(0, 1).
    """
    if mean <= 0.0:
        return 0.0
    variance = math.log1p((sigma / mean) ** 2)
    return mean * math.exp(-0.5 * variance + math.sqrt(variance) * normal(state))
