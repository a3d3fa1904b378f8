"""One HTML page about a run: its scores, pulls and timings, the studies, the weights, and how it was made.

blocks     what a page is made of: tables, matrices, pictures
svg        pictures as images inside a page
figures    pictures of a run
run        sections from the results of a run
studies    sections from the studies
rehearsal  section about a rehearsal of the final phase
weights    sections about the weights
verdict    whether all is well, in one line
page       all of them as HTML, by the templates in ``templates/``
"""
