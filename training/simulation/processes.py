"""Table of the four processes: Pythia settings, cross-sections, expected events, early decisions.

Settings and cross-sections are those of the challenge's own generation program (repository FAIR-Universe/genHEPdata,
``share/config_*.cmnd`` and ``scripts/crosssection.json``); the challenge weights every event by the cross-section of
its Pythia process code over the number of generated events of that code. The expected events at 10/fb before the
selection are those of the public data set (arXiv:2410.02867, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from sage.challenge.nuisances import PROCESSES, SIGNAL
from sage.errors import InputError
from training.events import LUMINOSITY

COMMON_SETTINGS = (
    "Print:quiet = on",
    "Beams:idA = 2212",
    "Beams:idB = 2212",
    "Beams:eCM = 13000.",
    "Main:timesAllowErrors = 300",
    "Check:epTolErr = 1e-2",
    # Taus decay in ``tau_decays``.
    "15:mayDecay = off",
)


Code = TypeVar("Code", int, np.ndarray)


@dataclass(frozen=True)
class Slice:
    """Part of a process that is generated apart, so that what is rare and looks like signal can be tried more often.

    Args:
        number: Tells the slices of a process apart, 0 for all of it.
        settings: Pythia settings that choose it.
        share: Its part of the showered events.
    """

    number: int
    settings: tuple[str, ...]
    share: float

    def code(self, code: Code) -> Code:
        """Return the code, or codes, under which events of a Pythia process code count."""
        return 10 * code + self.number if self.number else code


WHOLE = Slice(0, (), 1.0)


@dataclass(frozen=True)
class Process:
    """One process of the challenge.

    Args:
        name: Its name in ``detailed_labels``.
        settings: Pythia settings beyond ``COMMON_SETTINGS``.
        cross_sections: Cross-section in fb by Pythia process code, times branching ratios where decays are forced;
            those of slices by ``Slice.code``.
        expected: Expected events at 10/fb before the official selection.
        keep: Fraction of generated events that are simulated by what the hard process promises, see ``Promise``.
        tau_bias: How many times more often than in nature heavy hadrons decay to taus; weights make up for it.
        row_weight: Weight within a process below which rows are thinned out, relative to an event that is kept for
            sure and selected for sure.
        slices: What it consists of where the simulation is aimed; their shares add up to 1.
    """

    name: str
    settings: tuple[str, ...]
    cross_sections: Mapping[int, float]
    expected: float
    keep: Promise
    row_weight: float
    tau_bias: float = 1.0
    slices: tuple[Slice, ...] = (WHOLE,)

    @property
    def label(self) -> float:
        """1 for the signal, 0 for backgrounds."""
        return float(self.name == SIGNAL)

    def event_weight(self, code: int, tried: int) -> float:
        """Expected events at 10/fb that one of ``tried`` generated events of a process code stands for."""
        if code not in self.cross_sections:
            msg = f"Pythia made process code {code} for {self.name}, which has no cross-section; add it to processes.py"
            raise InputError(msg)
        return self.cross_sections[code] * LUMINOSITY / tried


class Promise(NamedTuple):
    """Fractions of events to simulate, by the leptons and taus of the hard process that can be reconstructed.

    Rare ways into the selection (a jet mistaken for a tau, a lepton or a tau from a heavy quark) are simulated for a
    fraction of events and weighted up, so every fraction is above zero unless the way is closed.

    Args:
        lepton_and_tau: A lepton, or tau that may give one, and another tau.
        lepton: A lepton, or tau that may give one, but no other tau.
        tau: No lepton but one tau.
        nothing: Neither.
        two_leptons: Two leptons that are not from taus, without a tau.
    """

    lepton_and_tau: float
    lepton: float
    tau: float
    nothing: float
    two_leptons: float


OTHER_H = Slice(
    1,
    (
        "HiggsSM:all = off",
        "HiggsSM:ffbar2H = on",
        "HiggsSM:gg2H = on",
        "HiggsSM:gmgm2H = on",
        "HiggsSM:ffbar2HZ = on",
        "HiggsSM:ffbar2HW = on",
        "HiggsSM:gg2Httbar = on",
        "HiggsSM:qqbar2Httbar = on",
    ),
    0.6,
)
VBF_H = Slice(2, ("HiggsSM:all = off", "HiggsSM:ff2Hff(t:ZZ) = on", "HiggsSM:ff2Hff(t:WW) = on"), 0.4)
VBF_H_CROSS_SECTIONS = {906: 60.54, 907: 162.7}
OTHER_H_CROSS_SECTIONS = {
    901: 57.65,
    902: 1634.0,
    903: 0.0493,
    904: 38.17,
    905: 69.79,
    908: 16.09,
    909: 6.577,
}

Z_CROSS_SECTION = 6_563_000.0
LIGHT_Z, HEAVY_Z = Slice(1, ("PhaseSpace:mHatMax = 100.",), 0.78), Slice(2, ("PhaseSpace:mHatMin = 100.",), 0.22)
HEAVY_Z_FRACTION = 0.0339
"""Part of the cross-section of Z with a mass above 100 GeV, by Pythia's integration.

Two million events of each slice and of the whole, hard process alone: 0.03390 +- 0.00002.
"""

TABLE = {
    process.name: process
    for process in (
        Process(
            "htautau",
            ("HiggsSM:all = on", "25:onMode = off", "25:onIfMatch = 15 15"),
            {
                **OTHER_H_CROSS_SECTIONS,
                **VBF_H_CROSS_SECTIONS,
                **{OTHER_H.code(code): value for code, value in OTHER_H_CROSS_SECTIONS.items()},
                **{VBF_H.code(code): value for code, value in VBF_H_CROSS_SECTIONS.items()},
            },
            expected=1015.0,
            keep=Promise(lepton_and_tau=1.0, lepton=0.03, tau=0.03, nothing=0.0, two_leptons=0.03),
            row_weight=0.35,
            slices=(OTHER_H, VBF_H),
        ),
        Process(
            "ztautau",
            # Pure Z in shape, but weighted with the cross-section of the process with photon, as the challenge does.
            (
                "WeakSingleBoson:all = on",
                "WeakZ0:gmZmode = 2",
                "WeakBosonAndParton:all = off",
                "24:onMode = off",
                "23:onMode = off",
                "23:onIfMatch = 15 15",
            ),
            {
                221: Z_CROSS_SECTION,
                LIGHT_Z.code(221): (1.0 - HEAVY_Z_FRACTION) * Z_CROSS_SECTION,
                HEAVY_Z.code(221): HEAVY_Z_FRACTION * Z_CROSS_SECTION,
            },
            expected=1_002_395.0,
            keep=Promise(lepton_and_tau=1.0, lepton=0.03, tau=0.0, nothing=0.0, two_leptons=0.0),
            row_weight=0.35,
            slices=(LIGHT_Z, HEAVY_Z),
        ),
        Process(
            "ttbar",
            # Top:all of the version the challenge used; later ones add g gamma -> t tbar to it.
            (
                "Top:gg2ttbar = on",
                "Top:qqbar2ttbar = on",
                "Top:qq2tq(t:W) = on",
                "Top:ffbar2ttbar(s:gmZ) = on",
                "Top:ffbar2tqbar(s:W) = on",
                "Top:gmgm2ttbar = on",
            ),
            {601: 470_400.0, 602: 68_040.0, 603: 151_100.0, 604: 363.0, 605: 7_160.0, 606: 2.784},
            expected=44_190.0,
            keep=Promise(lepton_and_tau=1.0, lepton=0.15, tau=0.08, nothing=0.03, two_leptons=0.12),
            row_weight=0.6,
            tau_bias=6.0,
        ),
        Process(
            "diboson",
            ("WeakDoubleBoson:all = on", "WeakZ0:gmZmode = 0"),
            {231: 7_192.0, 232: 25_900.0, 233: 59_810.0},
            expected=3_783.0,
            keep=Promise(lepton_and_tau=1.0, lepton=0.08, tau=0.06, nothing=0.0, two_leptons=0.06),
            row_weight=0.6,
        ),
    )
}
"""The processes by name."""


def find_processes(name: str) -> tuple[Process, ...]:
    """Return one process by name, or all of them for ``all``.

    Raises:
        InputError: If there is no such process.
    """
    if name == "all":
        return tuple(TABLE[process] for process in PROCESSES)
    if name not in TABLE:
        msg = f"no process {name!r}; choose all or one of {', '.join(TABLE)}"
        raise InputError(msg)
    return (TABLE[name],)
