"""Calibrated probabilities: what an answer is, how it is fitted, how good it is."""
