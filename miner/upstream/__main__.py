"""`python -m miner.upstream neurons/miner.py ...`: the reference miner, with the live bundle among its detectors."""

from __future__ import annotations

import runpy
import sys
from importlib import import_module

USAGE = "usage: python -m miner.upstream neurons/miner.py [flags of the reference miner]"


def main() -> None:
    """Register the detector, and run the script as `python SCRIPT` would."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(USAGE)
    import_module("miner.upstream.plugin")
    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
