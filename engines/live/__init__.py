"""Bundles in a running process: loaded, checked, swapped under load, asked in batches."""
