"""This machine: cores, memory, GPU, clock, child processes, background tasks."""
