"""Two problems with interference between signal and background, whose density is known in closed form."""

PROBLEM_NAMES = ("gaussian", "four_leptons")
