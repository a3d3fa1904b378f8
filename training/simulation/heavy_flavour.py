"""Taus from heavy hadrons, made more often than they are and weighted down.

One selected top event in eight holds a tau from a b or c jet, yet few heavy hadrons decay to taus; left alone, a
handful of rows would carry most of the variance. So Pythia's branching ratios to taus are multiplied by a factor, and
each event is weighted by the ratio of true to used probability of all its decays of heavy hadrons.
"""

from __future__ import annotations

import awkward as ak
import numpy as np
import pythia8mc

TAU_FRACTIONS = {
    411: 0.0010,
    431: 0.0637,
    511: 0.0297,
    521: 0.0301,
    531: 0.0332,
    541: 0.0235,
    5122: 0.0248,
    5132: 0.0260,
    5232: 0.0260,
    5332: 0.0260,
}
"""Fraction of decays to taus of weakly decaying charm and bottom hadrons.

Counted in 10^5 (rare hadrons) to 4 x 10^5 decays of Pythia 8.317; for B mesons larger than the branching ratios of its
table, since it draws a decay anew where partons happen to form one that it lists by itself.
"""

TAU = 15


class TauBias:
    """Raised branching ratios of one instance of Pythia.

    Args:
        data: Particle data of a Pythia that has been initialised; changed.
        factor: What branching ratios to taus are multiplied by.
    """

    def __init__(self, data: pythia8mc.ParticleData, factor: float) -> None:
        self._factor = factor
        self._any = np.ones(max(TAU_FRACTIONS) + 1)
        for code, fraction in TAU_FRACTIONS.items():
            entry = data.particleDataEntryPtr(code)
            for channel in (entry.channel(i) for i in range(entry.sizeChannels())):
                if TAU in (abs(channel.product(i)) for i in range(channel.multiplicity())):
                    channel.bRatio(factor * channel.bRatio())
            # Pythia chooses in proportion, so every other decay becomes rarer by this.
            self._any[code] = 1.0 + (factor - 1.0) * fraction

    def weights(self, record: ak.Array) -> np.ndarray:
        """Weight of each event of ``Pythia.nextBatch``, shape (n,)."""
        counts = ak.to_numpy(ak.num(record.prt))
        starts = np.cumsum(counts) - counts
        owner = np.repeat(np.arange(len(counts)), counts)
        codes = np.abs(ak.to_numpy(ak.flatten(record.prt.id)))
        first, last = (ak.to_numpy(ak.flatten(record.prt[name])) for name in ("daughter1", "daughter2"))
        rows = np.flatnonzero(np.isin(codes, list(TAU_FRACTIONS)) & (first > 0))
        begin, end = first[rows] + starts[owner[rows]], last[rows] + starts[owner[rows]] + 1
        # A meson that has oscillated into its antiparticle has not decayed yet.
        decayed = codes[begin] != codes[rows]
        rows, begin, end = rows[decayed], begin[decayed], end[decayed]
        taus = np.concatenate([[0], np.cumsum(codes == TAU)])
        to_tau = taus[end] > taus[begin]
        logs = np.log(self._any[codes[rows]]) - np.where(to_tau, np.log(self._factor), 0.0)
        return np.exp(np.bincount(owner[rows], weights=logs, minlength=len(counts)))
