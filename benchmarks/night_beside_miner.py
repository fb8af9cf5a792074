"""A night beside a live miner on the same cores: what the miner's requests notice, and what a killed miner leaves.

    python -m benchmarks.night_beside_miner
    python -m benchmarks.night_beside_miner --phases 4 --seconds 15 --limit-ms 200
    python -m benchmarks.night_beside_miner --kills 5

First, `cascade mine` is asked over HTTP at a steady rate while `cascade nightly --once` trains on synthetic scenes. The
night is stopped and continued (SIGSTOP, SIGCONT) from phase to phase, so that phases with and without it alternate on
the same machine. Said is the 99th percentile of each and the ratio, the requests without an answer, and how long the
night waited because the miner was above `--limit-ms`.

With `--kills`, a miner that runs its own night is killed with SIGKILL at random moments. After each, nothing that it
began may run, and the next miner must go on with the night by itself. In the end the artifacts of every stage must be
those of a night that nobody disturbed, byte for byte. Ends with status 1 if a request failed or this does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.made_bundles import SMALL, export, publish
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import Reply, open_loop
from benchmarks.serving.miner import UNLIMITED, Home, photograph, text_of, wait_until
from benchmarks.serving.spread import quantiles_ms, told
from engines.machine.clock import utc_now
from miner.nights.processes import processes_of
from miner.nights.record import OUTPUT, Night, Nights
from offline.data.sources.synthetic_streets import write_scenes
from stage1.artifacts import sha256_file

# A night of a few minutes: one kind of every stage that trains.
NIGHT = {
    "night.train_supervised.epochs": 2,
    "night.train_conformal_risk.enabled": "true",
    "night.train_conformal_risk.steps": 60,
    "night.compare_training.repetitions": 20,
    "night.gate.repetitions": 100,
}
OK = 200
START_S, LEFT_S, NIGHT_S = 120.0, 5.0, 1800.0
# After a night has begun, seconds.
MOMENTS_S = 2.0, 40.0


def settings(root: Path, limit_ms: float, workspace: Path) -> dict[str, Any]:
    """Of the miner and of the nights beside it."""
    retrain = {
        "retrain.data": root / "scenes",
        "retrain.workspace": workspace,
        "retrain.preset": "tiny",
        "retrain.pause_above_ms": limit_ms,
    }
    return UNLIMITED | {"engine.threads": 1} | retrain | NIGHT


def last_night(state: Path) -> Night | None:
    nights = Nights(state).all()
    return nights[-1] if nights else None


def signal_all(state: Path, number: signal.Signals) -> None:
    """Send a signal to every process of the last night."""
    night = last_night(state)
    for pid in processes_of(night.record.token) if night is not None else ():
        os.kill(pid, number)


def ask(home: Home, port: int, per_s: float, seconds: float, seed: int) -> list[Reply]:
    count = round(per_s * seconds)
    bodies = [body_of(text_of(photograph(seed + number))) for number in range(count)]
    # A phase is longer than a signature is fresh.
    requests = [partial(home.callers[0].request, body) for body in bodies]
    return asyncio.run(open_loop(port, requests, per_s))


def beside(root: Path, home: Home, phases: int, seconds: float, per_s: float, limit_ms: float) -> list[str]:
    """Phases with and without a night; what was wrong."""
    chosen = settings(root, limit_ms, root / "beside")
    with home.miner("beside", chosen) as miner:
        # The same settings but for what only a miner needs.
        flags = {"store": home.path / "store", "state": miner.state, "log.json_lines": "true"}
        flags |= {name: value for name, value in chosen.items() if name.startswith(("retrain.", "night."))}
        command = [sys.executable, "-m", "miner.cli", "nightly", "--once"]
        command += [flag for key, value in flags.items() for flag in ("--set", f"{key}={value}")]
        with (root / "nightly.log").open("wb") as log:
            nightly = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: (root / "nightly.log").read_text().count("night_stage") > 0, START_S, "no night began")
            return _phases(home, miner.port, miner.state, nightly, phases, seconds, per_s)
        finally:
            signal_all(miner.state, signal.SIGCONT)
            nightly.terminate()
            nightly.wait(60)


def _phases(
    home: Home, port: int, state: Path, nightly: subprocess.Popen[bytes], phases: int, seconds: float, per_s: float
) -> list[str]:
    p99: dict[str, list[float]] = {"without": [], "with": []}
    failed, asked = 0, 0
    for phase in range(phases):
        for arm in ("without", "with") if phase % 2 == 0 else ("with", "without"):
            signal_all(state, signal.SIGSTOP if arm == "without" else signal.SIGCONT)
            # What is under way at the border belongs to neither.
            time.sleep(1)
            if arm == "with" and nightly.poll() is not None:
                print(f"the night ended after {phase} phases; train on more with --scenes")
                break
            replies = ask(home, port, per_s, seconds, 1000 * len(p99["with"] + p99["without"]))
            asked += len(replies)
            failed += sum(reply.status != OK for reply in replies)
            p99[arm].append(quantiles_ms([reply.seconds for reply in replies])[1])
    night = last_night(state)
    said = "" if night is None else (night.home / OUTPUT).read_text()
    waits = [float(found) for found in re.findall(r"it has waited ([0-9]+) s so far", said)]
    pairs = list(zip(p99["with"], p99["without"], strict=False))
    print(f"p99, ms, without a night: {told(p99['without'], 0)}; with one: {told(p99['with'], 0)}")
    print(f"ratio of phases side by side: {told([one / other for one, other in pairs])}")
    print(
        f"requests: {asked}, failed: {failed}; pauses told: {len(waits)}, {max(waits, default=0):.0f} s before the last"
    )
    return ["requests failed"] if failed else []


def artifacts(workspace: Path) -> dict[str, str]:
    """Hash of every file of every stage, without what names times."""
    files = (path for path in (workspace / "stages").glob("*/*/**/*") if path.is_file())
    kept = [path for path in files if path.name != "stage.json" and path.parts[-3] != "publish"]
    return {path.relative_to(workspace).as_posix(): sha256_file(path) for path in kept}


def kills(root: Path, home: Home, number: int, seed: int) -> list[str]:
    """SIGKILL of a miner at random moments of its night; what was wrong."""
    rng, wrong, state = random.Random(seed), list[str](), root / "state"
    chosen = settings(root, 1e6, root / "killed")
    shutil.copytree(home.path / "store", root / "calm-store")
    # A night as a crash leaves it before its process is there: the first miner goes on with it as all others do.
    Nights(state).begin(utc_now())
    for kill in range(number + 1):
        night_is_far = {"retrain.enabled": "true", "retrain.cron": "0 0 1 1 *", "state": state}
        with home.miner(f"killed-{kill}", chosen | night_is_far) as miner:
            wait_until(lambda: _under_way(state), START_S, "the night did not go on by itself")
            if kill == number:
                wait_until(lambda: not _under_way(state), NIGHT_S, "the night did not end")
                continue
            time.sleep(rng.uniform(*MOMENTS_S))
            night = last_night(state)
            assert night is not None
            miner.process.send_signal(signal.SIGKILL)
            miner.process.wait()
            time.sleep(LEFT_S)
            left = processes_of(night.record.token)
            stages = [f"{line['stage']} {line['state']}" for line in events(night) if "stage" in line]
            print(f"kill {kill + 1}, at {stages[-1:] or 'its start'}: {len(left)} processes run {LEFT_S:.0f} s later")
            wrong += [f"kill {kill + 1} left {left}"] * bool(left)
    ended = last_night(state)
    print(f"in the end: {'nothing' if ended is None else ended.in_words}")
    wrong += ["the last night did not succeed"] * (ended is None or not ended.succeeded)
    calm = undisturbed(root, chosen)
    found = artifacts(root / "killed")
    other = sorted(name for name in calm.keys() | found.keys() if calm.get(name) != found.get(name))
    print(f"artifacts: {len(found)}, of which not those of an undisturbed night: {len(other)} {other[:5]}")
    return wrong + ["artifacts differ"] * bool(other)


def undisturbed(root: Path, chosen: Mapping[str, Any]) -> dict[str, str]:
    """Artifacts of the same night, run at once."""
    command = [sys.executable, "-m", "miner.cli", "retrain", "--preset", "tiny", "--progress", "json"]
    command += ["--data", str(root / "scenes"), "--workspace", str(root / "calm"), "--store", str(root / "calm-store")]
    changes = {name.removeprefix("night."): value for name, value in chosen.items() if name.startswith("night.")}
    command += [flag for key, value in changes.items() for flag in ("--set", f"{key}={value}")]
    subprocess.run(command, check=True, capture_output=True)
    return artifacts(root / "calm")


def events(night: Night) -> list[dict[str, Any]]:
    """What a night said for programs."""
    lines = (night.home / OUTPUT).read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _under_way(state: Path) -> bool:
    night = last_night(state)
    return night is not None and night.under_way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--phases", type=int, default=6, help="pairs of a phase with and one without a night")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a phase")
    parser.add_argument("--per-s", type=float, default=4.0)
    parser.add_argument("--limit-ms", type=float, default=1000.0)
    parser.add_argument("--kills", type=int, default=0, help="instead: kill a miner so often")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(vars(options)))
    with tempfile.TemporaryDirectory(prefix="night-beside-") as directory:
        root = Path(directory)
        list(write_scenes(root / "scenes", scenes=options.scenes, seed=options.seed))
        home = Home.make(root / "home")
        home.activate(publish(home.store, export(root / "small.onnx", SMALL, 0), root / "files"))
        if options.kills:
            wrong = kills(root, home, options.kills, options.seed)
        else:
            wrong = beside(root, home, options.phases, options.seconds, options.per_s, options.limit_ms)
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
