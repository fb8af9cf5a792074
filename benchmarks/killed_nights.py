"""Nights that are killed with SIGKILL at random moments, and what they leave: artifacts, processes, locks.

    python -m benchmarks.killed_nights
    python -m benchmarks.killed_nights --kills 20 --seed 1

First `cascade retrain` makes one night of every stage on synthetic scenes undisturbed. Then the same night begins in
another workspace and is killed, at a moment that is drawn: after so many lines of its progress, and a part of a
second. After each kill no process of it may run on; then it is begun again. A night that comes to its end is followed
by another one in a workspace of its own, until there were so many kills. The artifacts of every stage of each must be
those of the undisturbed night, byte for byte, and nothing half-written may lie about. Ends with status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engines.store.store import Store
from miner.nights.processes import VARIABLE, new_token, processes_of
from offline.data.sources.synthetic_streets import write_scenes
from offline.runs.run_record import read_runs
from stage1.artifacts import sha256_file
from stage1.errors import CascadeError

# One of every stage that trains, of a network that learns nothing in so short a time.
SETTINGS = {
    "train_supervised.epochs": 2,
    "train_supervised.checkpoint_steps": 3,
    "adapt_domain.enabled": "true",
    "adapt_domain.epochs": 1,
    "train_conformal_risk.enabled": "true",
    "train_conformal_risk.steps": 20,
    "compare_training.repetitions": 100,
    "model.backbone.layers": 2,
    "preprocess.size_px": 64,
    "gate.least_mcc": -1,
    "gate.repetitions": 100,
    "calibrate_scrc.alpha": 0.2,
}
# The most lines of progress that an attempt may tell before it is killed, and then the most seconds.
LINES, SECONDS = 45, 1.5
# A process that was killed is gone as soon as the system has cleared it away; its children learn of it a little later.
GONE_S = 10.0
HALF_WRITTEN = (".partial", ".removed", ".record-", ".rehearsal")


@dataclass(frozen=True)
class Night:
    """A night in a directory of its own.

    Attributes:
        data: directory of the scenes.
        home: has its workspace and its store.
    """

    data: Path
    home: Path

    @property
    def workspace(self) -> Path:
        return self.home / "workspace"

    @property
    def command(self) -> list[str]:
        places = {"--data": self.data, "--workspace": self.workspace, "--store": self.home / "store"}
        flags = [flag for name, value in places.items() for flag in (name, str(value))]
        changes = [flag for key, value in SETTINGS.items() for flag in ("--set", f"{key}={value}")]
        program = [sys.executable, "-m", "miner.cli", "retrain", "--preset", "tiny", "--progress", "json"]
        return [*program, "--threads", "1", "--tracking", "off", *flags, *changes]

    def run(self, lines: int | None, seconds: float) -> Attempt:
        """Run it, to its end or until it has told so many lines and so many seconds more."""
        token, last, told = new_token(), "its start", 0
        with (
            (self.home / "errors").open("ab") as errors,
            subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {VARIABLE: token}
            ) as child,
        ):
            for event in events(child):
                told += 1
                last = event.get("stage") or last
                if lines is not None and told >= lines:
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(seconds)
                    child.send_signal(signal.SIGKILL)
                    break
            child.wait()
        until = time.monotonic() + GONE_S
        while (left := processes_of(token)) and time.monotonic() < until:
            time.sleep(0.1)
        return Attempt(last, told, child.returncode, left)

    def artifacts(self) -> dict[str, str]:
        """Hash of every file of every stage, without what names times and bundles."""
        files = (path for path in (self.workspace / "stages").glob("*/*/**/*") if path.is_file())
        kept = [path for path in files if path.name != "stage.json" and path.parts[-3] != "publish"]
        return {path.relative_to(self.workspace).as_posix(): sha256_file(path) for path in kept}

    def wrong(self) -> list[str]:
        """What is not as a night leaves it that nobody disturbed."""
        half = (path for path in self.home.rglob("*") if any(part in path.name for part in HALF_WRITTEN))
        # A file of the workspace itself may be that of a plan, which holds no lock: it goes when it is a day old.
        found = [str(path) for path in half if path.parent != self.workspace]
        try:
            with FileLock(self.workspace / ".lock", timeout=0):
                pass
        except Timeout:
            found.append(f"{self.workspace} is locked")
        store = Store(self.home / "store")
        try:
            for row in store.bundles():
                store.verify(row.manifest.bundle_id)
        except CascadeError as error:
            found.append(str(error))
        ended = [record for record in read_runs(self.workspace) if record.outcome is not None]
        return found + ["no run came to its end"] * (not ended)


@dataclass(frozen=True)
class Attempt:
    """One start of a night.

    Attributes:
        stage: that it was in at last.
        lines: of its progress.
        status: that it ended with; -9 if it was killed.
        left: processes that ran on.
    """

    stage: str
    lines: int
    status: int
    left: list[int]

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def events(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        with suppress(ValueError):
            yield json.loads(line)


def compared(found: Mapping[str, str], calm: Mapping[str, str]) -> list[str]:
    """Names of files that are not the same, or not in both."""
    return sorted(name for name in found.keys() | calm.keys() if found.get(name) != calm.get(name))


def kill(root: Path, data: Path, calm: Mapping[str, str], kills: int, seed: int) -> Iterator[str]:
    """Kill nights so often, and say what was wrong."""
    rng, done, number, stages = random.Random(seed), 0, 0, Counter[str]()
    print(f"{'kill':>4}  {'night':>5}  {'in stage':<20}  {'lines':>5}  left running")
    while done < kills:
        number += 1
        night = Night(data, root / f"night-{number}")
        night.home.mkdir()
        while True:
            last = done >= kills
            one = night.run(None if last else rng.randint(1, LINES), rng.uniform(0, SECONDS))
            if one.killed:
                done += 1
                stages[one.stage] += 1
                print(f"{done:>4}  {number:>5}  {one.stage:<20}  {one.lines:>5}  {one.left or 'nothing'}", flush=True)
                if one.left:
                    yield f"kill {done} left {one.left}"
                continue
            if one.status:
                yield f"night {number} ended with {one.status}: {(night.home / 'errors').read_text()[-500:]}"
            break
        found = night.artifacts()
        others = compared(found, calm)
        print(f"night {number} came to its end: {len(found)} artifacts, {len(others)} of them others {others[:5]}")
        yield from [f"night {number}: other artifacts {others}"] * bool(others)
        yield from night.wrong()
    print(f"killed in {', '.join(f'{stage} {count}' for stage, count in stages.most_common())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="killed-nights-") as directory:
        root, data = Path(directory), Path(directory) / "scenes"
        list(write_scenes(data, scenes=options.scenes, seed=options.seed))
        undisturbed = Night(data, root / "calm")
        undisturbed.home.mkdir()
        began = time.monotonic()
        one = undisturbed.run(None, 0)
        if one.status:
            raise SystemExit(f"the undisturbed night failed: {(undisturbed.home / 'errors').read_text()[-2000:]}")
        calm = undisturbed.artifacts()
        took = time.monotonic() - began
        print(f"undisturbed: {one.lines} lines in {took:.0f} s, {len(calm)} artifacts", flush=True)
        wrong = [*undisturbed.wrong(), *kill(root, data, calm, options.kills, options.seed)]
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
