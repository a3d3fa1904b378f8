"""Shifts of events and pseudo-experiments."""

from HiggsML.derived_quantities import DER_data
from HiggsML.systematics import (
    V4,
    all_bkg_weight_norm,
    diboson_bkg_weight_norm,
    get_bootstrapped_dataset,
    get_systematics_dataset,
    make_unweighted_set,
    mom4_manipulate,
    postprocess,
    repeat_rows_by_weight,
    systematics,
    ttbar_bkg_weight_norm,
)

__all__ = [
    "V4",
    "DER_data",
    "all_bkg_weight_norm",
    "diboson_bkg_weight_norm",
    "get_bootstrapped_dataset",
    "get_systematics_dataset",
    "make_unweighted_set",
    "mom4_manipulate",
    "postprocess",
    "repeat_rows_by_weight",
    "systematics",
    "ttbar_bkg_weight_norm",
]
