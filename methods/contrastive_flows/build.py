"""Contrastive flows: their densities among a classifier's inputs, a fit of the signal fraction, an interval from toys.

After arXiv:2505.08709 and its program; docs/contrastive_flows.md tells what is the same. The flows need zuko, which
requirements-simulation.txt pins.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from methods.building import Build, add_arrays, write_binned, write_network
from sage.binned.regions import Region, RegionSet
from sage.files.bundle import Bundle
from sage.flows.classifier import CUT, FlowClassifier
from sage.flows.fraction import table_arrays, toy_tables
from training.flow_classifier import TowerSettings, classifier_arrays, fit_towers, shifted, tower_sample
from training.flow_features import FlowFeatureSettings, by_category, train_flows
from training.flow_losses import PUBLISHED_FIT
from training.flows import PUBLISHED
from training.networks import NETWORK_FILE, REPORT_FILE
from workshop.files import read_arrays

BINS = 199
"""Equal bins of the score from which merging starts."""
ROWS = 300_000
"""Training events that are read at most."""
NODES, NOISE_DRAWS = 20, 1
"""At most, of the configured ones: flows take several times as long as SAGE's network."""
TOYS = 4000
"""At each signal strength of the tables; 50 in the published program."""
REGIONS = RegionSet("flows", (Region("jets", (CUT,)),), exclusive=True)
FLOWS = FlowFeatureSettings()
TOWERS = TowerSettings()
PUBLISHED_FLOWS = FlowFeatureSettings(flow=PUBLISHED, fit=PUBLISHED_FIT, rows=10**9, published_feature=True)
"""In place of ``FLOWS``: layers, training, feature, constant fraction and interval as published; days on a CPU."""

log = logging.getLogger("sage.methods.contrastive_flows")


def build(this: Build) -> Bundle:
    """Train flows and classifier, make templates of the score, and the tables of toys."""
    tables = this.config.tables
    lighter = replace(
        tables,
        uniform_bins=BINS,
        nodes=min(tables.nodes or NODES, NODES),
        noise_draws=min(tables.noise_draws, NOISE_DRAWS),
    )
    this = replace(this, config=replace(this.config, tables=lighter))
    network = this.intermediate / "training"
    parameters = _earlier(this) or _trained(this)
    write_network(this, parameters)
    settings = {"toy_interval": "published"} if FLOWS.published_feature else {}
    bundle = write_binned(
        "contrastive_flows", this, network, make_classifier=FlowClassifier, regions=REGIONS, settings=settings
    )
    toys = toy_tables(bundle.templates, TOYS, this.config.seed, published=FLOWS.published_feature)
    slope, offset = toys.table.line
    log.info("toys: mean = %.3f mu + %.3f, sd %s", slope, offset, toys.table.sd.round(3).tolist())
    return add_arrays(this.output / "weights", table_arrays(toys))


def _earlier(this: Build) -> Mapping[str, np.ndarray] | None:
    """Return the classifier that an earlier run has trained on the same events with the same settings."""
    report, network = (this.intermediate / "training" / name for name in (REPORT_FILE, NETWORK_FILE))
    if not (report.exists() and network.exists()):
        return None
    told = json.loads(report.read_text(encoding="utf-8"))
    same = told["config"] == json.loads(json.dumps(asdict(this.config)))
    return read_arrays(network) if same and told["data"] == this.training_source() else None


def _trained(this: Build) -> Mapping[str, np.ndarray]:
    seed = this.config.seed
    events = this.training_rows(ROWS)
    settings = replace(FLOWS, fit=replace(FLOWS.fit, seed=seed))
    flows, flags = train_flows(settings, by_category(events), this.intermediate / "flows")
    for flag in flags:
        log.warning("flows: %s", flag)
    samples = {
        name: tower_sample(flows[name], one, sorted(flows[name].flows)) for name, one in shifted(events, seed).items()
    }
    trained, losses = fit_towers(samples, replace(TOWERS, seed=seed))
    log.info("classifier: held-out loss %.4f", min(losses))
    return classifier_arrays(trained, flows)
