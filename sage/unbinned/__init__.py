"""Likelihood ratios of single events in place of bins (arXiv:2505.05544): ratios, response, statistic, likelihood."""
