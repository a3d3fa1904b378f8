"""The organisers' rules: nuisances, shifts, features and the frame of a test set. No learning, no statistics."""
