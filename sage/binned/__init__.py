"""Class probabilities -> counts per region and bin, what is expected there, and the likelihood of it."""
