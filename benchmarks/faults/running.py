"""A miner in a process of its own, from any checkout, with what it needs and with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bittensor_wallet import Wallet

TICKS = os.sysconf("SC_CLK_TCK")
# A miner starts in a few seconds; the machine may be ten times slower than usual.
START_S = 60.0
MARK = "FAULTS_OF"
NAMES = ("miner", "validator", "low", "stranger")
PERMITTED: dict[str, dict[str, Any]] = {
    "miner": {"uid": 0},
    "validator": {"uid": 1, "stake": 1e5},
    "low": {"uid": 2, "stake": 1.0},
}
# Stands for `nice`, behind which the nightly job runs: it hears no SIGTERM.
STUCK = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"
MAKE_BUNDLE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from benchmarks.made_bundles import publish
from engines.store.store import Store
home = Path(sys.argv[1])
store = Store(home / "store")
store.activate(publish(store, home / "tiny.onnx", home / "files"), now=datetime.now(UTC))
"""


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_tiny(path: Path, *, work: int = 0) -> Path:
    """An engine that looks at the mean colour: yellow is roadwork, cyan is none, and black says nothing.

    Args:
        path: of the ONNX file.
        work: side of two matrices that it multiplies for nothing, to take time.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.array([[-0.02, 0.02, 0.0], [0.0, 0.0, 0.04], [0.02, -0.02, 0.0]], np.float32)
    constants: dict[str, Any] = {
        "axes": np.array([2, 3], np.int64),
        "weights": weights,
        "first_two": np.array([0, 1], np.int64),
        "third": np.array(2, np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["heads" if not work else "free"]),
        helper.make_node("Gather", ["heads", "first_two"], ["logits"], axis=1),
        helper.make_node("Gather", ["heads", "third"], ["select_score"], axis=1),
    ]
    if work:
        constants["square"] = np.full((work, work), 1e-3, np.float32)
        constants["nothing"] = np.array(0.0, np.float32)
        nodes[3:3] = [
            helper.make_node("ReduceMean", ["colour"], ["grey"], keepdims=0),
            helper.make_node("Mul", ["square", "grey"], ["one"]),
            helper.make_node("MatMul", ["one", "square"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "nothing"], ["zero"]),
            helper.make_node("Add", ["free", "zero"], ["heads"]),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, 224, 224])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("select_score", TensorProto.FLOAT, ["N"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@dataclass
class Tree:
    """A checkout, with wallets and a bundle that it made.

    Attributes:
        path: of the checkout.
        home: wallets, chain and store.
        mark: in the environment of every process that is started from it.
    """

    path: Path
    home: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    wallets: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        for name in NAMES:
            wallet = Wallet(name=name, hotkey="default", path=str(self.home))
            wallet.create_new_coldkey(use_password=False, overwrite=True, suppress=True)
            wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
            self.wallets[name] = wallet
        write_tiny(self.home / "tiny.onnx")
        subprocess.run(
            [sys.executable, "-c", MAKE_BUNDLE, str(self.home)], env=self.environment(), cwd=self.home, check=True
        )

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
        return {**kept, "PYTHONPATH": str(self.path), MARK: self.mark, **(more or {})}

    def address(self, name: str) -> str:
        return str(self.wallets[name].hotkey.ss58_address)

    def neurons(self, *without: str) -> dict[str, Any]:
        return {
            self.address(name): {"validator_permit": name != "miner", **known}
            for name, known in PERMITTED.items()
            if name not in without
        }

    def has(self, text: str, file: str) -> bool:
        """Whether this checkout knows of something."""
        path = self.path / file
        return path.exists() and text in path.read_text()

    def run(self, *arguments: str, home: Path, env: Mapping[str, str] | None = None, limit_s: float = 25.0) -> Done:
        """A command of `cascade`, ended when its time is up or once it is a miner that answers."""
        command = [sys.executable, "-m", "miner.cli", *arguments]
        with tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                command,
                env=self.environment(env),
                cwd=home,
                stdout=subprocess.DEVNULL,
                stderr=told,
                start_new_session=True,
            )

            def over() -> bool:
                told_so_far = os.pread(told.fileno(), 1 << 20, 0)
                return process.poll() is not None or b'"event": "ready"' in told_so_far

            until(over, limit_s)
            status = process.poll()
            if status is None:
                process.kill()
                process.wait()
            return Done(status, os.pread(told.fileno(), 1 << 20, 0).decode(errors="replace"))

    def left(self) -> list[int]:
        """Processes that were started from it and are alive."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    ended = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
                    if not ended and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def clear(self) -> None:
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Done:
    """What a command told on standard error; `status` is None if it had to be ended."""

    status: int | None
    told: str


@dataclass
class Miner:
    """A running `cascade mine`."""

    tree: Tree
    home: Path
    port: int
    settings: dict[str, Any]
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def state(self) -> Path:
        return self.home / "state"

    def events(self, *names: str, since: int = 0) -> list[dict[str, Any]]:
        """Lines of the log with these names, or all."""
        found = []
        for line in self.log.read_bytes()[since:].splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if not names or event.get("event") in names:
                    found.append(event)
        return found

    def warnings(self, since: int = 0) -> list[dict[str, Any]]:
        """Lines of the log at WARNING or above."""
        return [event for event in self.events(since=since) if event.get("level") in {"warning", "error", "critical"}]

    def log_size(self) -> int:
        return self.log.stat().st_size

    def journal(self) -> list[dict[str, Any]]:
        """What can be read of the journal."""
        path, found = self.state / "journal.jsonl", []
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self, what: str = "VmRSS") -> float:
        """Resident memory; `VmHWM` for the most since `forget_peak`."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def write_chain(self, neurons: Mapping[str, Any]) -> None:
        new = self.home / "chain.new"
        new.write_text(json.dumps({"schema_version": 1, "block": int(time.time()), "neurons": neurons}))
        new.rename(self.home / "chain.json")

    def end(self, number: int = signal.SIGTERM, limit_s: float = 25.0) -> tuple[int | None, float]:
        """Its exit status, None if it did not end in time, and the seconds until then."""
        started = time.monotonic()
        self.process.send_signal(number)
        try:
            return self.process.wait(limit_s), time.monotonic() - started
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - started


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    return [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]


def offline(tree: Tree, home: Path, **more: Any) -> dict[str, Any]:
    """Settings of a miner without a network."""
    return {
        "store": tree.home / "store",
        "state": home / "state",
        "wallet.name": "miner",
        "wallet.path": tree.home,
        "chain.kind": "offline",
        "chain.snapshot": home / "chain.json",
        "chain.publish_endpoint": "false",
        "axon.host": "127.0.0.1",
        "log.json_lines": "true",
    } | more


def begin(miner: Miner, *arguments: str, files: int | None = None, env: Mapping[str, str] | None = None) -> None:
    """Start the process of a miner, and not wait for it."""

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    command = [sys.executable, "-m", "miner.cli", "mine", *flags_of(miner.settings), *arguments]
    with miner.log.open("ab") as log:
        miner.process = subprocess.Popen(
            command,
            stderr=log,
            stdout=log,
            env=miner.tree.environment(env),
            cwd=miner.home,
            start_new_session=True,
            preexec_fn=limit,  # noqa: PLW1509  no other thread runs while it starts
        )


@contextlib.contextmanager
def mining(
    tree: Tree,
    *arguments: str,
    files: int | None = None,
    env: Mapping[str, str] | None = None,
    prepare: Callable[[Miner], object] = lambda _: None,
    ready: bool = True,
    **settings: Any,
) -> Iterator[Miner]:
    """A miner that answers; ended with all that it started.

    Args:
        tree: the checkout that it runs from.
        arguments: further ones of `cascade mine`.
        files: its limit of open files, which it cannot raise.
        env: further variables.
        prepare: called before it starts.
        ready: wait until it answers.
        settings: further ones, with two underscores for a dot.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        home, port = Path(directory), free_port()
        more = {name.replace("__", "."): value for name, value in settings.items()}
        miner = Miner(tree, home, port, offline(tree, home, **{"axon.port": port, **more}), None)  # type: ignore[arg-type]
        miner.write_chain(tree.neurons())
        prepare(miner)
        try:
            begin(miner, *arguments, files=files, env=env)
            if ready and not until(lambda: miner.events("ready") or miner.process.poll() is not None, START_S):
                raise RuntimeError("the miner was not ready in time")
            if ready and miner.process.poll() is not None:
                raise RuntimeError(f"the miner ended: {miner.log.read_text(errors='replace')[-2000:]}")
            yield miner
        finally:
            if miner.process is not None and miner.process.poll() is None:
                miner.process.kill()
                miner.process.wait()
            tree.clear()
