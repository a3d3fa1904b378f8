"""Submissions to compare SAGE with or to start from; ``python -m scripts.make_method`` builds them.

A method is a folder here. Its ``build.py`` makes the weights from events: a docstring whose first line tells what the
method is, and ``build``, which takes a ``methods.building.Build``. Its ``model.py`` becomes that of the submission,
beside a copy of the package ``sage`` and the weights; without one, SAGE's own is taken. Whatever the methods here do
not say themselves is SAGE's: events, regions, templates, likelihood and interval.
"""
