"""Densities of events by coupling flows, and what classifies with them: for methods that use flows."""
