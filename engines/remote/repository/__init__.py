"""Bundles as models of a server: a directory that Triton, OpenVINO Model Server and MLServer read."""
