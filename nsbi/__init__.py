"""Inference from learned density ratios of mixtures with interference (ATLAS, arXiv:2412.01600), on ``sage.fit``."""

KINDS = ("joint", "pairwise")
"""Ways to learn the ratios: one network that is positive for every mu, or one classifier per sample."""
