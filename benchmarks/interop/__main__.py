"""The interop matrix: what our axon answers to real SDKs, row by row, and whether it is as expected.

    python -m benchmarks.interop
    python -m benchmarks.interop --peer .venv-bittensor11/bin/python --quick

Each SDK runs with a Python of its own, and the axon in a process of its own. `scripts/interop --matrix` makes the
virtual environments first. The exit status is 1 if an answer is not as expected, or an SDK is not there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bittensor_wallet import Keypair, Wallet
from rich.console import Console
from rich.table import Table

from benchmarks.interop.cases import Case, Side, cases

ROOT = Path(__file__).parents[2]
PYTHONS = (ROOT / ".venv-bittensor9/bin/python", Path(sys.executable), ROOT / ".venv-bittensor11/bin/python")
PLAY_S = 1200.0
WIDTH = 150


@dataclass(frozen=True)
class Column:
    """What one SDK was told."""

    title: str
    side: Side
    got: dict[str, list[str]]


def make_wallet(home: Path, name: str) -> Any:
    wallet = Wallet(name=name, hotkey="default", path=str(home))
    wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return wallet


def ask(python: Path, rows: list[Case]) -> Column:
    """Let the SDK of an interpreter play all rows that apply to it against an axon of its own."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        keys = {name: make_wallet(home, name).hotkey for name in ("miner", "validator", "stranger", "other")}
        mnemonic = Keypair.generate_mnemonic()
        permitted = [keys["validator"].ss58_address, Keypair.create_from_mnemonic(mnemonic, crypto_type=0).ss58_address]
        axon = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interop.axon_process", keys["miner"].ss58_address, *permitted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            assert axon.stdout is not None
            ports = json.loads(axon.stdout.readline() or "{}")
            if not ports:
                raise SystemExit("the axon did not start")
            asked = {
                "ports": ports,
                "hotkey": keys["miner"].ss58_address,
                "other": keys["other"].ss58_address,
                "wallets": str(home),
                "ed25519": mnemonic,
            }
            return play(python, asked, rows, keys["validator"].ss58_address)
        finally:
            axon.kill()
            axon.wait()


def play(python: Path, asked: dict[str, Any], rows: list[Case], validator: str) -> Column:
    version = subprocess.run(
        [str(python), "-c", "from importlib.metadata import version; print(version('bittensor'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    side: Side = "dendrite" if int(version.split(".")[0]) < 11 else "http_auth"
    played = [{"name": row.name, "steps": row.steps} for row in rows if side not in row.absent]
    text = json.dumps(asked | {"cases": played}).replace('"VALIDATOR"', json.dumps(validator))
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("peer.py"))],
        input=text,
        capture_output=True,
        text=True,
        timeout=PLAY_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python}: the peer ended with status {done.returncode}\n{done.stderr[-2000:]}")
    _, *lines = (json.loads(line) for line in done.stdout.splitlines())
    return Column(f"{side} {version}", side, {line["case"]: line["got"] for line in lines})


def short(outcomes: list[str] | tuple[str, ...]) -> str:
    """Outcomes in one cell; of many alike, their number."""
    runs = [(text, len(list(group))) for text, group in itertools.groupby(outcomes)]
    return ", ".join(", ".join([text] * count) if count < 3 else f"{count} x {text}" for text, count in runs)


def matrix(rows: list[Case], columns: list[Column]) -> tuple[Table, int]:
    """The table, and how many cells of it are not as expected."""
    table = Table("arrives", "expected", *(column.title for column in columns))
    wrong = 0
    for row in rows:
        cells, wants = [], dict.fromkeys(short(row.expects(c.side)) for c in columns if c.side not in row.absent)
        for column in columns:
            if column.side in row.absent:
                cells.append(f"[dim]does not apply: {row.absent[column.side]}[/dim]")
                continue
            got, expected = tuple(column.got.get(row.name, ["not played"])), row.expects(column.side)
            wrong += got != expected
            cells.append(f"[green]ok[/green]  {short(got)}" if got == expected else f"[red]WRONG[/red]  {short(got)}")
        table.add_row(row.name, " or ".join(wants), *cells)
    return table, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, action="append", help="a Python with a bittensor; by default all three")
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    parser.add_argument("--row", default="", metavar="WORDS", help="only rows whose name has these words")
    options = parser.parse_args()
    pythons = options.peer or PYTHONS
    absent = [str(python) for python in pythons if not python.exists()]
    if absent:
        raise SystemExit(f"no {', '.join(absent)}: `make interop` makes the virtual environments")
    rows = [row for row in cases(slow=not options.quick) if options.row in row.name]
    table, wrong = matrix(rows, [ask(python, rows) for python in pythons])
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table)
    console.print("every answer is as expected" if not wrong else f"{wrong} answers are not as expected")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
