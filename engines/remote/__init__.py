"""Engines that other machines run, and the protocol that they are asked by."""
