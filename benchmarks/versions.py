"""What two versions of this program do with what the other has written: store, state and workspace, up and back.

    python -m benchmarks.versions OLD                 a commit, a tag or a branch
    python -m benchmarks.versions OLD --home DIR      keeps everything there

Both run in the environment of this process, each from a tree of its own, on small scenes and with the preset `tiny`.
The places are copies of each other: what the old program wrote, that under the new one, that under the old one again,
and what the new program wrote under the old one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from miner.cli.chain.practice import made

ROOT = Path(__file__).parents[1]
NIGHT = ("retrain", "--data", "scenes", "--preset", "tiny", "--set", "train_supervised.epochs=1")
READY_S, NIGHT_S, STOP_S = 120.0, 1_800.0, 30.0
REQUESTS = "5"


@dataclass(frozen=True)
class Row:
    """One thing that was tried.

    Attributes:
        what: in which place, and what.
        status: exit status.
        seconds: that it took.
        said: the line that tells most.
    """

    what: str
    status: int | str
    seconds: float
    said: str


@dataclass
class Program:
    """One version.

    Attributes:
        name: of it.
        tree: where its code is.
        variables: of the environment: the practice chain.
    """

    name: str
    tree: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.variables | {"PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1"}

    def start(self, place: Path, *words: str, log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "miner.cli", *words]
        with log.open("wb") as file:
            return subprocess.Popen(command, cwd=place, env=self.environment, stdout=file, stderr=subprocess.STDOUT)

    def run(self, place: Path, *words: str, limit_s: float = NIGHT_S) -> tuple[int | str, str]:
        """Status and output."""
        log = place / f"{self.name}-{words[0]}.log"
        process = self.start(place, *words, log=log)
        try:
            status: int | str = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "too slow"
        return status, log.read_text(errors="replace")


def last(text: str, *marks: str) -> str:
    """The last line with one of the marks, or the last one at all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if any(mark in line for mark in marks)]
    return (marked or lines or ["nothing"])[-1]


def night(program: Program, place: Path) -> tuple[int | str, str]:
    """Train, certify and publish."""
    status, said = program.run(place, *NIGHT)
    return status, last(said, "verdict  ") if status == 0 else last(said, "error", "Error", ":")


def engines(program: Program, place: Path) -> tuple[int | str, str]:
    """What the store holds."""
    status, said = program.run(place, "engines", "list")
    shown = [" ".join(line.split()[:2]) for line in said.splitlines() if line.strip()]
    return status, "; ".join(shown) if status == 0 else last(said)


def serve(program: Program, place: Path, hotkey: str, keys: Path) -> tuple[int | str, str]:
    """Start a miner with this store and state, ask it, and stop it."""
    log = place / f"{program.name}-mine.log"
    process = program.start(place, "mine", "--set", "axon.port=0", "--set", "axon.host=127.0.0.1", log=log)
    try:
        port = ready_port(process, log)
        if port is None:
            exited = process.poll()
            return "not ready" if exited is None else exited, last(log.read_text(), "error", ":")
        url = f"http://127.0.0.1:{port}"
        asked = ("simulate", "scenes", "--requests", REQUESTS, "--miner", url, "--hotkey", hotkey, "--keys", str(keys))
        status, said = program.run(place, *asked)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            ended: int | str = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            ended = f"killed, status {process.wait()}"
    refused = [line for line in log.read_text().splitlines() if '"bundle_refused"' in line]
    told = f"{last(said, 'bundle  ')}, {last(said, 'without an answer')}"
    told += f", refused: {json.loads(refused[-1]).get('reason', '')}" if refused else ""
    return status if ended == 0 else f"{status}, miner {ended}", told


def ready_port(process: subprocess.Popen[bytes], log: Path) -> int | None:
    """Where the miner listens, as its log says; None if it ended or takes too long."""
    end = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < end:
        for line in log.read_text(errors="replace").splitlines():
            if '"event": "ready"' in line:
                return int(json.loads(line)["port"])
        time.sleep(0.2)
    return None


class Trial:
    """All places, and what came of them.

    Args:
        home: where everything is written.
        old: the old tree.
    """

    def __init__(self, home: Path, old: Path) -> None:
        practice = made(home / "practice")
        self.keys = home / "practice" / "wallets"
        self.hotkey = practice.miner
        words = [line.split("=", 1) for line in practice.variables.read_text().splitlines()]
        variables = {name.removeprefix("export "): value.strip("'") for name, value in words}
        self.home = home
        self.old, self.new = Program("old", old, variables), Program("new", ROOT, variables)
        self.rows: list[Row] = []

    def place(self, name: str, like: str | None = None) -> Path:
        """A directory of its own, or a copy of another one."""
        path = self.home / name
        if like is None:
            path.mkdir()
            self.note(f"{name}: scenes", lambda: self.new.run(path, "scenes", "scenes", "--count", "120"))
        else:
            shutil.copytree(self.home / like, path, symlinks=True)
        return path

    def note(self, what: str, does: Callable[[], tuple[int | str, str]]) -> None:
        """Do it, and keep what came of it."""
        began = time.monotonic()
        status, said = does()
        self.rows.append(Row(what, status, time.monotonic() - began, said.strip().splitlines()[-1] if said else ""))
        row = self.rows[-1]
        print(f"| {row.what} | {row.status} | {row.seconds:.0f} | {row.said[:300]} |", flush=True)

    def go_on(self, program: Program, place: Path, *, nights: bool = True) -> None:
        """List, serve and train, in this order."""
        name = f"{place.name}, {program.name} program"
        self.note(f"{name}: engines list", lambda: engines(program, place))
        if nights:
            self.note(f"{name}: serve", lambda: serve(program, place, self.hotkey, self.keys))
            self.note(f"{name}: retrain", lambda: night(program, place))
        self.note(f"{name}: serve", lambda: serve(program, place, self.hotkey, self.keys))

    def run(self) -> None:
        print("| what | status | seconds | said |\n| --- | --- | --- | --- |", flush=True)
        place = self.place("written by old")
        self.note("written by old, old program: retrain", lambda: night(self.old, place))
        self.go_on(self.old, place, nights=False)
        self.go_on(self.new, self.place("old, then new", like="written by old"))
        self.go_on(self.old, self.place("old, new, old again", like="old, then new"))
        back = self.place("old, new, back on its bundle", like="old, then new")
        bundle = json.loads((place / "cascade-data/engines/current.json").read_text())["bundle"]
        name = f"{back.name}, new program: engines activate"
        self.note(name, lambda: self.new.run(back, "engines", "activate", bundle))
        self.go_on(self.old, back, nights=False)
        fresh = self.place("written by new")
        self.note("written by new, new program: retrain", lambda: night(self.new, fresh))
        self.go_on(self.new, fresh, nights=False)
        self.go_on(self.old, self.place("new, then old", like="written by new"))


def tree_of(commit: str, home: Path) -> Path:
    """The files of a commit, in a directory of their own."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    tree = home / "tree"
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="the old version: a commit, a tag or a branch")
    parser.add_argument("--home", type=Path, help="an empty directory; by default one that is removed")
    options = parser.parse_args()
    if options.home is not None:
        options.home.mkdir(parents=True, exist_ok=True)
        trial = Trial(options.home.resolve(), tree_of(options.old, options.home.resolve()))
        trial.run()
        return
    with tempfile.TemporaryDirectory() as scratch:
        Trial(Path(scratch), tree_of(options.old, Path(scratch))).run()


if __name__ == "__main__":
    main()
