"""The command line."""

from miner.cli.main import app

__all__ = ["app"]
