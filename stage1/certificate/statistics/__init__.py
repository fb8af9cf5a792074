"""Exact tests, their levels, and how many rows they need."""
