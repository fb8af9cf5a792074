"""Conformal risk training of the heads."""
