"""Wires: how the validators of a subnet ask, each in a file of its own."""
