"""Reads the weights folder without trusting it."""
