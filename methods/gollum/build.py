"""GOLLUM: an unbinned likelihood in three regions from learned ratios of densities, binned in the others.

SAGE's network gives the shares of the processes. The response networks are those that ``scripts.train_surrogates`` left
in the sub-folder ``surrogates`` of the build folder; without any, the training part of the events trains some. Replicas
of them tell how far their errors move the answer; without any, the interval leaves these errors out.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from methods.building import Build, write_binned
from sage.binned.regions import REGION_SETS, RegionSet
from sage.binned.score import EFFICIENT_SCORE
from sage.files.bundle import SURROGATES, Bundle, read_bundle
from sage.files.manifest import MANIFEST, signed
from sage.network.classifier import NetworkClassifier
from sage.network.parameters import split
from sage.unbinned.ratios import PUBLISHED_MARK, UNBINNED
from training.events import EventsFile
from training.networks import read_network, read_shares
from training.surrogate_calibration import calibrated_surrogates, check_published_range, read_replicas
from training.surrogates import SURROGATES_FILE, SurrogateConfig, train_surrogates
from workshop.files import read_arrays, sha256, write_arrays, write_json

log = logging.getLogger("sage.methods.gollum")
PUBLISHED_CHOICES = {"profile": "slice", "nuisances": "gollum", "simulation_uncertainty": False}
"""Settings of the measurement that go with networks of the published variant."""


def build(this: Build) -> Bundle:
    """Make the weights: tables, with one bin for each unbinned region, and calibrated surrogates."""
    path = this.intermediate / "surrogates" / SURROGATES_FILE
    if not path.exists():
        settings = SurrogateConfig(seed=this.config.seed)
        fraction = this.config.table_fraction
        train_surrogates(settings, this.data, this.weights, path.parent, table_fraction=fraction)
    replicas = [] if this.replicas is None else read_replicas(this.replicas, path.parent)
    if not replicas:
        log.warning("no replicas of the response networks, so the interval leaves their errors out; see --replicas")
    parameters, constants = read_network(this.weights)
    has_scores = bool(split(parameters)[1])
    regions = regions_with(EFFICIENT_SCORE if has_scores else "p_htautau").for_network(read_shares(this.weights))
    trained = read_arrays(path)
    changes = {}
    if PUBLISHED_MARK in trained:
        check_published_range(trained, EventsFile(this.data, this.config.table_fraction))
        changes = PUBLISHED_CHOICES
    bundle = write_binned("gollum", this, this.weights, regions=regions, settings=changes)
    classifier = NetworkClassifier(parameters, constants, threads=1)
    arrays = calibrated_surrogates(this.config, this.data, bundle, classifier, trained, replicas)
    weights = this.output / "weights"
    write_arrays(weights / SURROGATES, arrays)
    manifest = json.loads((weights / MANIFEST).read_text(encoding="utf-8"))
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    manifest["files"][SURROGATES] = {"sha256": sha256(weights / SURROGATES), "shapes": shapes}
    manifest["origin"]["surrogates"] = {"file": path.name, "sha256": sha256(path), "replicas": len(replicas)}
    write_json(weights / MANIFEST, signed(manifest))
    return read_bundle(weights)


def regions_with(observable: str) -> RegionSet:
    """Return the regions: unbinned ones as one bin of a quantity that no probability decides, the others binned."""
    five = REGION_SETS["five"]
    return replace(
        five,
        name="gollum",
        regions=tuple(
            replace(region, observable="m_vis" if region.name in UNBINNED else observable) for region in five.regions
        ),
    )
