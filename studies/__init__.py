"""Offline studies of the measurement: what it expects, how it behaves on toys, and their pictures."""
