"""Runs a pipeline of three small stages in forked children, each killed at a later step on the file system.

pipeline_child.py HOMES
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[2] / "engines" / "store")]

from store_child import killed_at  # type: ignore[import-not-found]
from test_runner import run  # type: ignore[import-not-found]

if __name__ == "__main__":
    homes = Path(sys.argv[1])
    # What a process finds out once, as the hashes of its own code, each child has from this run.
    run(homes.parent / "before")
    step, again = 0, True
    while again:
        step += 1
        home = homes / str(step)
        home.mkdir(parents=True)
        again = killed_at(step, lambda home=home: run(home))
