"""SAGE: the Higgs boson's signal strength in H -> tau tau, measured under six systematic uncertainties.

This package is what travels in the submission: numpy and the standard library, Python 3.10 syntax. torch is imported
only where the native kernel cannot run, or where a GPU is asked for.
Its modules follow the data, one step each:

    shifts      move the events to a nuisance point, apply the selection
    features    the 12 derived quantities of the challenge and the 35 network inputs
    graph       the fixed event graph: five nodes, their edges, which of them are present
    network     the dual-branch graph network: inputs -> class probabilities, as a dense torch module
    native      the same as a compiled kernel; ``engine`` chooses between them
    regions     probabilities -> counts per region and bin
    nodes       counts of simulated events at chosen nuisance points
    response    smooth yields fitted to them
    tables      yield tables and their trilinear interpolation
    likelihood  Poisson negative log-likelihood with constraints
    profiling   the fit over the nuisance parameters
    interval    the 68 % interval of the signal strength; ``ladder`` where the normal way fails
    rebuilding rebuilds the tables from the organisers' training events
    deadline    bounds the time of a measurement
    measurement all of the above, from a data frame to an answer

``nuisances`` is the one table of systematic uncertainties; ``bundle`` reads and checks the files in
``weights/``, ``parameters`` knows the names and shapes of the network's.
"""

__version__ = "0.2.0"
