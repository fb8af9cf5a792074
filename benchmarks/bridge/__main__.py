"""What the way to Stage-2 costs: what the bridge adds to a hand-off, and the CPU time of our client.

    MLSERVER_PYTHON=... TRITON_PYTHON=... TRITONCLIENT_PYTHON=... python -m benchmarks.bridge
    python -m benchmarks.bridge --only overhead

What the bridge adds is measured by `benchmarks.stage2_load.overhead`. Our client is measured against `tritonclient` in
the same run, on the same servers and image. The interpreters are those of environments with MLServer, nvidia-pytriton
and tritonclient[http]; the last two may be one. Clients are processes of their own and ask about one photograph of
13 kB, each round in turns; CPU time is user and system time of the client's process, so a busy machine disturbs it
little.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.bridge import client_cost
from benchmarks.stage2_load import overhead

PARTS = ("overhead", "client")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bridge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100, help="of a client in a round")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    asked = parser.parse_args()
    if asked.only != "client":
        overhead.main(["--rounds", str(asked.rounds)])
    if asked.only != "overhead":
        with tempfile.TemporaryDirectory(prefix="bridge-") as directory:
            client_cost.run(Path(directory), asked.rounds, asked.requests)


if __name__ == "__main__":
    main()
