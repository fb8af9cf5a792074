"""Formats of labelled images beside `labels.csv`, one a file."""
