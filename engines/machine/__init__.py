"""This machine: cores, memory, GPU, child processes."""
