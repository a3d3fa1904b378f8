"""The offline side of SAGE: from an events file to the weights folder.

This package may import ``sage``, never the other way round. Its modules in the order in which they run:

    simulation     makes events in the challenge's format (``scripts.simulate``), ``data/`` among them
    dataset        streaming reader of events files in the challenge's format
    config         the settings of everything below, from strict YAML
    train          trains the network at random nuisance points
    binning        bin edges per region
    counting       jobs that count events at nuisance points, here or on a cluster
    validation     fitted yields against direct counts at points the fit has not seen
    build_tables   counts at well chosen nuisance points -> yield tables
    make_weights   all of the above -> ``weights/``

``graph_oracle`` is the network in plain torch-geometric, against which the dense one is tested.
"""
