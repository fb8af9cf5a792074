"""Provokes what a miner tells from afar, and shows what a receiver got: each condition once when it begins, once after.

    python -m benchmarks.alerts
    python -m benchmarks.alerts --json alerts.json --markdown benchmarks/results/alerts.md

A real `cascade mine` with its chain in a file, Stage-2 servers that can be broken, a stand-in of the library that tells
of GPUs, and a receiver of webhooks on this machine. Each fault is made, mended and waited for; conditions settle for a
minute before they are told, so it takes about twelve minutes. The disk is filled with a file of 14 GiB for some of
them. Ends with status 1 if a message is missing, comes twice, or has no end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.alerts.faults import World
from benchmarks.alerts.receiver import Receiver, listening
from benchmarks.alerts.rounds import EVERYTHING, Expected, Pings, run

HEAD = """# What a receiver of alerts got

`python -m benchmarks.alerts --markdown benchmarks/results/alerts.md`: each event is provoked in a real miner, mended,
and waited for. A condition is told when it has held for a minute, and when it has been gone for one; the miner looks
every 15 s. Silence counts from 30 s on and an answer is slow from 1 s on, so that they come within minutes. The GPU is
a stand-in of NVIDIA's library in the place of `pynvml`; the disk was really filled, and the night really failed.
"""
COLUMNS = ("event", "message", "level", "told", "over", "at", "text")


@dataclass(frozen=True)
class Row:
    """What became of one event.

    Attributes:
        expected: it.
        begun: messages of its beginning.
        over: messages of its end.
    """

    expected: Expected
    begun: list[dict[str, Any]]
    over: list[dict[str, Any]]

    @property
    def as_expected(self) -> bool:
        """Told once, and its end once where it has one."""
        return len(self.begun) == 1 and len(self.over) == int(self.expected.has_end)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the messages are written")
    parser.add_argument("--markdown", type=Path, help="where the table is written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, listening() as receiver:
        world = World(Path(place), receiver)
        with world.home.miner("told", world.settings) as miner:
            pings = run(world, miner, receiver)
    rows = [Row(one, one.begun(receiver), one.over(receiver)) for one in EVERYTHING]
    for row in rows:
        text = row.begun[0]["text"] if row.begun else ""
        print(
            f"{'ok' if row.as_expected else 'WRONG':<6}{row.expected.name:<18}"
            f"told {len(row.begun)}, over {len(row.over)}  {text}"
        )
    print(f"pings in {pings.seconds:.0f} s: {pings.ready} while ready, {pings.not_ready} while not")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(receiver.got, indent=2) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(rows, receiver, pings))
    wrong = sum(not row.as_expected for row in rows) + (pings.not_ready > 1) + (pings.ready < 2)
    print(f"{wrong} of {len(rows) + 1} are not as expected; {len(receiver.got)} messages")
    return int(wrong > 0)


def markdown(rows: list[Row], receiver: Receiver, pings: Pings) -> str:
    """The table, event by event, and the body of each first message."""
    lines = [HEAD, f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for row in rows:
        first = row.begun[0] if row.begun else {"level": "", "text": "never told", "at": ""}
        over = str(len(row.over)) if row.expected.has_end else "happens once"
        at, ours = str(first["at"])[11:19], row.expected
        text = first["text"].replace("|", "\\|")
        lines.append(f"| {ours.event} | `{ours.name}` | {first['level']} | {len(row.begun)} | {over} | {at} | {text} |")
    known = {id(one) for row in rows for one in (*row.begun, *row.over)}
    others = [one for one in receiver.got if id(one) not in known]
    told = ", ".join(sorted({f"`{one['kind']}` ({one['level']})" for one in others})) or "none"
    lines += [
        "",
        f"Dead man's ping, in {pings.seconds:.0f} s: {pings.ready} while it was ready, {pings.not_ready} while not.",
        "",
        f"{len(receiver.got)} messages in all. Those that are in no row: {told}.",
        "",
        "## Payloads",
        "",
        "As the receiver got them, in the form `json`; of a condition its beginning and its end.",
        "",
    ]
    for row in rows:
        bodies = [*row.begun[:1], *row.over[:1]]
        lines += [
            f"`{row.expected.name}`",
            "",
            "```json",
            *(json.dumps(one, ensure_ascii=False) for one in bodies),
            "```",
        ]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
