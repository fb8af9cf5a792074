"""Reproduces the faults of a miner on a hostile network against a real process, from any checkout.

    python -m benchmarks.faults --json after.json
    python -m benchmarks.faults --tree ../before --json before.json
    python -m benchmarks.faults --compare before.json after.json
    python -m benchmarks.faults --only silent_connections,webp

Loopback only, and about six minutes. The status is 1 if a fault shows.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults import from_outside, of_the_operator
from benchmarks.faults.row import Row
from benchmarks.faults.running import Tree

HERE = Path(__file__).resolve().parents[2]
REPRODUCTIONS = (
    from_outside.silent_connections,
    from_outside.idle_connections,
    from_outside.headers_without_bodies,
    from_outside.large_png,
    from_outside.large_jpeg,
    from_outside.webp,
    from_outside.numbers,
    from_outside.damaged_picture,
    from_outside.refusals,
    of_the_operator.deregistration,
    of_the_operator.absent_chain,
    of_the_operator.fallback,
    of_the_operator.doctor,
    of_the_operator.stuck_night,
    of_the_operator.crowded_stage2,
    of_the_operator.full_disk,
    of_the_operator.mistakes,
    from_outside.replay_after_restart,
    from_outside.callers_that_leave,
    from_outside.dear_to_read,
    from_outside.busy_parser,
    of_the_operator.early_sighup,
    of_the_operator.sighup,
    of_the_operator.torn_journal,
    of_the_operator.two_miners,
)


def reproduce(tree: Tree, only: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for reproduction in REPRODUCTIONS:
        name = reproduction.__name__
        if only and name not in only:
            continue
        started = time.monotonic()
        try:
            found = reproduction(tree)
        except Exception as error:  # noqa: BLE001  the others are reproduced all the same
            found = [Row(name, "the reproduction itself", f"failed: {error}", "ends", shows=True)]
        finally:
            tree.clear()
        for row in found:
            print(f"{'SHOWS' if row.shows else 'ok':5}  {row.fault}: {row.value}  ({row.measured}; good: {row.good})")
        print(f"       {name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        rows += found
    return in_order(rows)


def table(before: Sequence[Row], after: Sequence[Row]) -> str:
    known = {row.fault: row for row in before}
    lines = ["| fault | measured | before | after | good |", "| --- | --- | --- | --- | --- |"]
    for row in after:
        old = known.get(row.fault)
        was = "" if old is None else _value(old)
        lines.append(f"| {row.fault} | {row.measured} | {was} | {_value(row)} | {row.good} |")
    return "\n".join(lines)


def _value(row: Row) -> str:
    return f"**{row.value}**" if row.shows else row.value


def read(path: Path) -> list[Row]:
    return [Row(**each) for each in json.loads(path.read_text())]


def write(path: Path, rows: Sequence[Row]) -> None:
    known = {row.fault: row for row in read(path)} if path.exists() else {}
    known |= {row.fault: row for row in rows}
    path.write_text(json.dumps([asdict(row) for row in in_order(known.values())], indent=1))


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: int(row.fault.split()[0]) if row.fault[0].isdigit() else 99)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, default=HERE, help="the checkout whose miner is run")
    parser.add_argument("--json", type=Path, help="where the rows are written; others in it are kept")
    parser.add_argument("--only", default="", help="names of reproductions, with commas")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="two files of rows, as a table"
    )
    asked = parser.parse_args()
    if asked.compare:
        print(table(*map(read, asked.compare)))
        return 0
    only = [name for name in asked.only.split(",") if name]
    if unknown := set(only) - {each.__name__ for each in REPRODUCTIONS}:
        parser.error(f"no such reproduction: {', '.join(sorted(unknown))}")
    # For crowds of connections, of which this process holds the other ends.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    # Ended from outside, it leaves no miner behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        tree = Tree(asked.tree.resolve(), Path(directory))
        tree.prepare()
        rows = reproduce(tree, only)
    if asked.json:
        write(asked.json, rows)
    shown = sum(row.shows for row in rows)
    print(f"{shown} of {len(rows)} show a fault" if shown else f"none of {len(rows)} shows a fault")
    return int(shown > 0)


if __name__ == "__main__":
    sys.exit(main())
