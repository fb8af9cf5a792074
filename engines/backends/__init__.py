"""Runtimes that compile and run a Stage-1 graph, one file or folder each."""
