"""Real nights on data that grow by a night: verdict, certificate, looks, disk and seconds of each.

    python -m benchmarks.growing_nights
    python -m benchmarks.growing_nights --nights 3 --scenes 1500 --each 150

Synthetic scenes are drawn once, and each night `labels.csv` lists more of them. `cascade nightly --once` then runs the
whole night with torch, as it does beside a miner. Ends with status 1 if a night does not succeed, if the first one is
not certified, or if rows of an earlier night changed their set.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.store.file_names import SPLITS
from engines.store.store import Store
from miner.nights.record import OUTPUT, Nights
from offline.data.sources.labels_csv import LABELS_FILE
from offline.data.sources.synthetic_streets import write_scenes
from offline.runs.disk_space import allocated
from offline.runs.run_record import read_runs
from offline.splits.splits_file import Splits

DIFFICULTY = 0.15
NIGHT = {
    "night.preprocess.size_px": 112,
    "night.train_supervised.epochs": 5,
    "night.train_supervised.batch_size": 32,
    "night.train_supervised.learning_rate": 5e-3,
    "night.train_supervised.augmentation": "light",
    "night.calibrate_scrc.stream": "originals",
    "night.calibrate_scrc.alpha": 0.05,
    "night.compare_training.baseline": "false",
    "night.eval_selective.cell_rows": 0,
    # Scenes of one kind look too much alike for it.
    "night.splits.hash_distance": "null",
}
HEAD = f"{'night':>5}  {'rows':>5}  {'verdict':<8}  {'status':<10}  {'looks left':>10}  {'exits':>6}  {'MCC':>6}"


def run_night(root: Path) -> int:
    """One night; its exit status."""
    chosen: dict[str, Any] = NIGHT | {
        "store": root / "store",
        "state": root / "state",
        "retrain.data": root / "scenes",
        "retrain.workspace": root / "workspace",
        "retrain.preset": "tiny",
    }
    flags = [flag for key, value in chosen.items() for flag in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "miner.cli", "nightly", "--once", *flags]
    return subprocess.run(command, check=False, capture_output=True).returncode


def list_scenes(labels: Path, rows: Sequence[dict[str, str]], scenes: int) -> int:
    """Write the rows of the first scenes; how many rows these are."""
    first = set(list(dict.fromkeys(row["group"] for row in rows))[:scenes])
    chosen = [row for row in rows if row["group"] in first]
    with labels.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(chosen)
    return len(chosen)


def sets_of(run: Path) -> dict[str, str]:
    """The set of each row."""
    return {row: name for name, part in Splits.read(run / SPLITS).sets.items() for row in part.ids}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=1500, help="that the first night has")
    parser.add_argument("--each", type=int, default=150, help="scenes that come each night")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(vars(options)))
    with tempfile.TemporaryDirectory(prefix="growing-nights-") as directory:
        root, wrong = Path(directory), list[str]()
        labels = root / "scenes" / LABELS_FILE
        scenes = options.scenes + options.each * (options.nights - 1)
        list(write_scenes(labels.parent, scenes=scenes, seed=options.seed, difficulty=DIFFICULTY))
        with labels.open(newline="", encoding="utf-8") as file:
            drawn = list(csv.DictReader(file))
        print(f"{HEAD}  {'disk MB':>8}  {'seconds':>7}  why", flush=True)
        before: dict[str, str] = {}
        for night in range(options.nights):
            rows = list_scenes(labels, drawn, options.scenes + night * options.each)
            began = time.monotonic()
            status = run_night(root)
            took = time.monotonic() - began
            if status:
                last = Nights(root / "state").all()[-1]
                raise SystemExit(f"night {night + 1} ended with {status}:\n{(last.home / OUTPUT).read_text()[-2000:]}")
            made = read_runs(root / "workspace")[-1]
            found = made.outcome
            assert found is not None
            disk = allocated([root / "workspace", root / "store"]) / 1e6
            left = "-" if found.looks_left is None else str(found.looks_left)
            exits, mcc = (f"{value:.3f}" if value is not None else "-" for value in (found.exit_coverage, found.mcc))
            line = (
                f"{night + 1:>5}  {rows:>5}  {found.verdict:<8}  {found.status:<10}  {left:>10}  {exits:>6}  {mcc:>6}"
            )
            print(f"{line}  {disk:>8.1f}  {took:>7.0f}  {'; '.join(found.reasons)}", flush=True)
            now = sets_of(root / "workspace" / "runs" / made.run)
            moved = [row for row, name in before.items() if now.get(row, name) != name]
            wrong += [f"night {night + 1}: {len(moved)} rows changed their set"] * bool(moved)
            wrong += ["the first night is not certified"] * (not night and found.status != "CERTIFIED")
            before = now
        pointer = Store(root / "store").current()
        print(f"live: {None if pointer is None else pointer.bundle}")
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
