"""Compile, store, load and hot-swap Stage-1 engines."""
