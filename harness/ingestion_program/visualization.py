"""Pictures; HiggsML lacks the official ``Dataset_visualise``, ``roc_curve_wrapper`` and ``custom_pretty_print``."""

from HiggsML.visualization import *  # noqa: F403
