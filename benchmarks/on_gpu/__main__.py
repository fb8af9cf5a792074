"""What only a GPU can show: one of three commands, each under nine minutes, without a network, to be repeated at will.

    python -m benchmarks.on_gpu learning | engines | rtx | all
    python -m benchmarks.on_gpu all --device cpu --small     # shows that everything runs, on any machine

Each unit runs in a process of its own and leaves a file in `benchmarks/results/on_gpu`. A unit whose file is there, and
of this code, is not run again: a command that ran out of time is given again, and goes on. `scripts/on_gpu` brings the
packages. The status is 1 if a unit failed, 3 if some are left, and 2 if there is no such device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.options import Options, Skipped
from benchmarks.on_gpu.results import HOME, ROOT, code_sha256, is_done, keep, path_of, slug
from benchmarks.on_gpu.units import COMMANDS, Unit, unit
from engines.machine.gpu import NoGpu, find_gpu

BUDGET_S = 520.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.on_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=[*COMMANDS, "all"], help="what is measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="of a few seconds each")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds after which nothing is begun")
    parser.add_argument("--results", type=Path, default=HOME)
    parser.add_argument("--unit", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.unit:
        return run_here(unit(asked.unit), asked)
    gpu = find_gpu()
    if asked.device == "cuda" and isinstance(gpu, NoGpu):
        print(f"no GPU: {gpu.reason}; --device cpu --small shows that everything runs", file=sys.stderr)
        return 2
    name = "cpu" if asked.device == "cpu" or isinstance(gpu, NoGpu) else gpu.name
    place = slug(name, small=asked.small)
    units = [one for command, each in COMMANDS.items() if asked.command in {command, "all"} for one in each]
    return run_all(units, asked, place)


def run_all(units: list[Unit], asked: argparse.Namespace, place: str) -> int:
    """All that are not done, while there is time."""
    until, code, failed, left = time.monotonic() + asked.budget, code_sha256(), list[str](), list[str]()
    for one in units:
        path = path_of(asked.results, place, one.name)
        if is_done(path, code):
            print(f"{one.name}: is there", flush=True)
            continue
        remaining = until - time.monotonic()
        if remaining < min(one.least_s, asked.budget / 2):
            left.append(one.name)
            continue
        content = run_apart(one, asked, min(remaining, one.most_s)) | {"code": code, "device": place}
        keep(path, content)
        reason = content.get("reason", "").strip().splitlines()
        print(f"{one.name}: {content['status']} in {content['seconds']:.0f} s{f': {reason[-1]}' if reason else ''}")
        if content["status"] == "failed":
            failed.append(one.name)
        elif content["status"] == "out of time":
            left.append(one.name)
    if left:
        print(f"left: {', '.join(left)}; give the command again")
    return 1 if failed else 3 if left else 0


def run_apart(one: Unit, asked: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """Run it in a process of its own; what it found, or how it ended."""
    begun = time.monotonic()
    about = {"unit": one.name, "at": datetime.now(UTC).isoformat(timespec="seconds"), "small": asked.small}
    with tempfile.TemporaryDirectory(prefix=f"on-gpu-{one.name}-") as scratch:
        out = Path(scratch) / "found.json"
        command = [sys.executable, "-m", "benchmarks.on_gpu", "all", "--unit", one.name, "--device", asked.device]
        command += ["--results", str(out), *(["--small"] if asked.small else [])]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {**about, "status": "out of time", "seconds": time.monotonic() - begun}
        seconds = round(time.monotonic() - begun, 1)
        if done.returncode or not out.exists():
            return {**about, "status": "failed", "seconds": seconds, "reason": done.stderr[-4000:]}
        return {**about, "seconds": seconds, **json.loads(out.read_text())}


def run_here(one: Unit, asked: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as home:
        try:
            content = {"status": "ok", "found": one.load()(Options(asked.device, asked.small, Path(home)))}
        except Skipped as why:
            content = {"status": "skipped", "reason": str(why)}
    asked.results.write_text(json.dumps(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
