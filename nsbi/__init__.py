"""Inference from learned density ratios of mixtures with interference (ATLAS, arXiv:2412.01600), on ``sage.fit``."""
