"""Supervised training of adapter and heads."""
