"""Benchmarks: each runs both sides interleaved and prints a ratio. `python -m benchmarks.NAME`."""
