"""SAGE: the Higgs boson's signal strength in H -> tau tau, measured under six systematic uncertainties.

This package is what travels in the submission: numpy and the standard library, Python 3.10 syntax. torch is imported
only where the native kernel cannot run, or where a GPU is asked for.
Its packages follow the data, and what stands below imports nothing of what stands above:

    submission   what the ``Model`` of every method shares: weights, settings, the way to a worker
    rebuilding   rebuilds the tables in ``fit``, in a process of its own (``child``)
    surrogates   the unbinned measurement of a bundle that has surrogates
    measurement  all steps below, from a data frame to an answer
    files        reads the weights folder without trusting it: arrays, manifest, settings, bundle
    binned       probabilities -> counts: regions, counting, the smooth response of yields, tables, the statistic
    unbinned     likelihood ratios of single events in place of bins: their response, the statistic, the likelihood
    likelihood   rates and a statistic: an objective; ``rates`` are the expected events as a function of the parameters
    flows        events -> densities by coupling flows, and scores from them, for the methods that have them
    fit          any objective -> interval: newton, interval, ladder, deadline, misfit
    network      events -> class probabilities: the graph, the network on it, the kernel, the engine that chooses
    challenge    the organisers' rules: nuisances, shifts, features, the frame of a test set; di-tau quantities

``challenge.nuisances`` is the one table of processes and uncertainties that everything reads. Two protocols are the
seams at which a method may differ: ``network.classifier.Classifier`` and ``fit.objective.Objective``.
"""

__version__ = "0.2.0"
