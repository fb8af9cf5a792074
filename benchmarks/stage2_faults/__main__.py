"""What a miner does beside a Stage-2 server that does one thing wrong, fault by fault, and says of bad settings.

    python -m benchmarks.stage2_faults
    python -m benchmarks.stage2_faults --rounds 3 --only nan,storm
    python -m benchmarks.stage2_faults --settings

Each fault has a server of its own and a `cascade mine` in front of it, both processes. Requests that need no Stage-2
are asked by four clients, while twenty images a second are deferred to the server; a miner beside a sound server is
asked in turns with it, request by request. The last two columns are ratios to that one, by round: the p99 of requests
that need no Stage-2, and the CPU time of the miner for a request of either kind, which a busy machine disturbs little.
The status is 1 if an answer is late, or if the p99 is more than 1.1 by the median of the rounds.

`--settings` runs `cascade stage2 check` and `cascade mine` with settings that cannot be meant or do not fit the server.
The status is 1 if one of them is not told before the first request.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.miner import Home
from benchmarks.stage2_faults import mistakes, servers
from benchmarks.stage2_servers.faults import FAULTS
from benchmarks.stage2_servers.traffic import GREY, YELLOW, ask_in_turns, home_of, pictures


def row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)


def head(cells: Sequence[str]) -> None:
    row(cells)
    row(["---"] * len(cells))


def of_servers(home: Home, rounds: int, exits: int, only: Sequence[str]) -> bool:
    good = True
    head(servers.HEAD)
    with servers.mining(home, "sound", None) as sound:
        # The first requests of a process are slower than all later ones.
        ask_in_turns(home, [sound], pictures(YELLOW, 100), pictures(GREY, 10, seed=99), servers.PER_S)
        for fault in FAULTS:
            if only and fault.name not in only:
                continue
            found = servers.measure(home, sound, fault, rounds, exits)
            row(found.cells)
            good &= found.good
    return good


def of_settings(home: Home) -> bool:
    good = True
    head(mistakes.HEAD)
    for number, mistake in enumerate(mistakes.MISTAKES):
        found = mistakes.look(home, mistake, number)
        row(found.cells)
        good &= found.good
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage2_faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--exits", type=int, default=300, help="requests of a round that need no Stage-2")
    parser.add_argument("--only", default="", help=f"of {', '.join(one.name for one in FAULTS)}")
    parser.add_argument("--settings", action="store_true", help="the table of bad settings instead")
    asked = parser.parse_args()
    only = [one for one in asked.only.split(",") if one]
    if unknown := set(only) - {one.name for one in FAULTS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="stage2-") as directory:
        home = home_of(Path(directory))
        good = of_settings(home) if asked.settings else of_servers(home, asked.rounds, asked.exits, only)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
