"""Torch as a backend: graphs compiled by AOTInductor, where torch is there anyway."""
