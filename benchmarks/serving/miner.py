"""A real miner on loopback: `cascade mine` in a process of its own, with a made bundle and a chain in a file."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serving.callers import Caller, make_wallet
from engines.store.store import Store
from miner.chain.offline import ChainFile
from miner.chain.port import Neuron

NOW = datetime(2026, 1, 1, tzinfo=UTC)
START_S, STOP_S, WRITE_S = 120.0, 30.0, 10.0
# No limits of rate and connections: a benchmark asks as fast as it can, from one address.
UNLIMITED = {"access.requests_per_s": 1e6, "access.burst": 10**6, "axon.max_connections_per_address": 1024}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{problem} after {seconds:.0f} s")
        time.sleep(0.02)


def photograph(seed: int, width: int = 224, height: int = 224) -> bytes:
    """A JPEG of the size that validators send; 13 kB where it is 224 px square."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass
class Miner:
    """A running miner.

    Attributes:
        process: it.
        port: of its axon.
        log: its log, JSON lines.
        state: its directory of state.
        parts_file: CPU time by part, if it is measured.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    state: Path
    parts_file: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if f'"{name}"' in line and line[:1] == "{" and line[-1:] == "}"]
        return [event for event in found if event.get("event") == name]

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def parts(self) -> dict[str, Any]:
        """See `Parts.write`: since its start."""
        self.parts_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        wait_until(self.parts_file.exists, WRITE_S, "the miner wrote no times of its parts")
        found: dict[str, Any] = json.loads(self.parts_file.read_text())
        return found


@dataclass(frozen=True)
class Home:
    """A directory with a miner's wallet, its store, and the callers that its chain permits.

    Attributes:
        path: the directory.
        store: its bundles.
        callers: permitted, the largest stake first.
        stranger: knows how to sign and may not ask.
    """

    path: Path
    store: Store
    callers: tuple[Caller, ...]
    stranger: Caller

    @classmethod
    def make(cls, path: Path, stakes: Sequence[float] = (1e5,)) -> Home:
        """Make one, without a bundle."""
        address = make_wallet(path, "miner").hotkey.ss58_address
        callers = tuple(Caller.new(address, f"dendrite-{number}") for number in range(len(stakes)))
        neurons = {address: Neuron(uid=0)}
        for number, (caller, stake) in enumerate(zip(callers, stakes, strict=True)):
            neurons[caller.hotkey] = Neuron(uid=number + 1, validator_permit=True, stake=stake)
        ChainFile(neurons=neurons).write(path / "chain.json")
        return cls(path, Store(path / "store"), callers, Caller.new(address, "stranger"))

    def activate(self, bundle: str) -> None:
        self.store.activate(bundle, now=NOW)

    def flags(self, name: str, settings: Mapping[str, Any]) -> list[str]:
        """The options of a command of the miner with this name; `settings` by dotted path, over those that it needs."""
        chosen = {
            "store": self.path / "store",
            "state": self.path / "miners" / name / "state",
            "wallet.name": "miner",
            "wallet.path": self.path,
            "chain.kind": "offline",
            "chain.snapshot": self.path / "chain.json",
            "chain.publish_endpoint": "false",
            "axon.host": "127.0.0.1",
            **settings,
        }
        return [flag for key, value in chosen.items() for flag in ("--set", f"{key}={value}")]

    @contextmanager
    def miner(
        self,
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        parts: bool = False,
        silence: Path | None = None,
        program: Sequence[str] = (sys.executable, "-m", "miner.cli"),
    ) -> Iterator[Miner]:
        """A miner of its own state and port, until the block ends.

        Args:
            name: of its directory.
            settings: by dotted path, over those that it needs.
            parts: time its parts, which costs it some CPU time.
            silence: while this file is there, its chain gives no answer.
            program: how `cascade` is started, where neither parts nor silence are asked for.
        """
        directory = self.path / "miners" / name
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        launcher = parts or silence is not None
        command = [sys.executable, "-m", "benchmarks.serving.launch"] if launcher else [*program, "mine"]
        command += self.flags(name, {"axon.port": port, "log.json_lines": "true", **(settings or {})})
        command += ["--parts", str(directory / "parts.json")] if parts else []
        command += ["--silence", str(silence)] if silence is not None else []
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        miner = Miner(process, port, directory / "log", directory / "state", directory / "parts.json")
        try:

            def ready() -> bool:
                if process.poll() is not None:
                    raise SystemExit(f"the miner ended with status {process.returncode}:\n{miner.last_words()}")
                return bool(miner.events("ready"))

            wait_until(ready, START_S, "the miner was not ready")
            yield miner
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
