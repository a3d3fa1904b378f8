"""Simpler submissions to compare SAGE with or to start from; ``python -m scripts.make_method`` builds them.

    published    the published recipe's regions and nuisance maps: SAGE's own Model with other weights
    mass_histogram  one histogram of the visible mass, no machine learning
    boosted_trees   gradient-boosted trees in place of the graph network

Each becomes a folder that runs by itself: a ``model.py``, a copy of the package ``sage`` and weights. Events, regions,
templates, likelihood and interval are SAGE's in all of them, so a difference in the scores comes from the observable.
"""
