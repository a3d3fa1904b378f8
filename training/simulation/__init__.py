"""Full-chain simulation of the challenge's events: Pythia 8, detector, selection, weights.

The detector side, in the order in which an event passes it:

    event        particles of one or many events, as arrays
    card         every constant of the detector, in one table
    draws        random numbers: one stream per event and purpose
    towers       propagation to the calorimeters and true energies per tower (``deposits``, ``overlay``)
    tracking     efficiency and momentum smearing of tracks
    calorimeter  tower response and energy flow
    objects      isolation and identification, counting of tracks, tau tags
    jets         anti-kt jets and their energy scale
    detector     all of the above and overlap removal: ``detect`` and ``measure``
    reco         reconstructed events, as arrays
    selection    one lepton and one tagged jet -> the 16 primary quantities
"""
