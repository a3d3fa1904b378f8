"""The challenge's ingestion and scoring programs, rebuilt as a library for use on one machine.

Given the same events file, settings and seed, the pseudo-experiments, the result files and the scores are those of the
official programs (repository FAIR-Universe/HEP-Challenge). On top of that a run can be interrupted and continued, bad
input is refused with a message, and any number of worker processes gives the same result.

    dataset, columns    the events file: test and training part, and what is checked about them
    download            the public data set
    pool                the test part on disk, shared by worker processes
    settings            sets, seeds, switches, order of the pseudo-experiments
    pseudo_experiments  nuisance draws and pseudo-data
    fast_pseudo_data    the same pseudo-data in less time
    archive, submission unpacking, importing and starting a submission
    surroundings        what a submission finds in its process, and what of it stays away from this program
    ingestion_program   the official program's modules, which a submission may import
    capture             what a submission prints
    fingerprint         by which files a submission is known again
    bundle              the files that make up a SAGE submission
    experiment, workers one predict call, and many of them in processes
    environment         what a run was made with
    results             files of a run, written so that a kill costs one experiment at most
    runner              all of the above, from arguments to a folder of results
    together, handover  several submissions on the same pseudo-experiments, made once and handed from process to process
    pool_point          what submissions make of the whole pool in place of a draw
    scores, pictures    the official scores, and a picture of the intervals

Nothing here is part of the submission.
"""
