"""The demo's child processes: a pipeline run, a miner, a validator."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from miner.demo.scoreboard import Asked
from miner.errors import StartError
from miner.progress_display import RunDisplay
from stage1.certificate.stream import Stream

READY_S = 300.0
SWAP_S = 300.0
ANSWER_S = 30.0
STOP_S = 15.0
POLL_S = 0.05
PRESET = "tiny"


def as_flags(changes: dict[str, Any]) -> list[str]:
    """`--set` flags for a child of this program."""
    return [flag for key, value in changes.items() for flag in ("--set", f"{key}={json.dumps(value, default=str)}")]


def retrain_child(
    data: Path,
    workspace: Path,
    store: Path,
    mode: str | None,
    changes: dict[str, Any],
    shown: RunDisplay,
    log: Path,
    *,
    threads: int | None,
) -> Path:
    """Run `cascade retrain` in a child on `threads` CPU threads, None for all cores, and show its progress.

    Returns:
        The run's directory.

    Raises:
        StartError: the child failed; its messages are in `log`.
    """
    command = [sys.executable, "-m", "miner.cli", "retrain", "--progress", "json", "--preset", PRESET]
    command += ["--data", str(data), "--workspace", str(workspace), "--store", str(store), *as_flags(changes)]
    command += [] if mode is None else ["--mode", mode]
    command += [] if threads is None else ["--threads", str(threads)]
    with log.open("ab") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
        assert child.stdout is not None
        run = ""
        for line in child.stdout:
            record = json.loads(line)
            if "run" in record:
                run = record["run"]
            elif "stage" in record:
                shown.stage(record["stage"], record["state"])
            elif "done" in record:
                shown.step(record["done"], record["total"], record["note"])
    if child.returncode != 0:
        raise StartError(f"retraining failed with status {child.returncode}: {_tail(log)} (whole log: {log})")
    return Path(run)


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _wait(condition: Callable[[], bool], timeout_s: float, problem: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StartError(problem)
        time.sleep(POLL_S)


class _Process:
    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        self._errors = log.open("wb")
        self.spawned_at = time.monotonic()
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            if stream is not None and not stream.closed:
                stream.close()

    def _alive(self, what: str) -> None:
        if self._child.poll() is not None:
            raise StartError(
                f"the {what} ended with status {self._child.returncode}: {_tail(self._log)} (log: {self._log})"
            )


class MinerProcess(_Process):
    """`cascade mine` with an offline chain.

    Args:
        settings: by dotted path.
        log: where its log goes, as JSON lines.
    """

    def __init__(self, settings: dict[str, Any], log: Path) -> None:
        super().__init__([sys.executable, "-m", "miner.cli", "mine", *as_flags(settings)], log)
        self.ready_s = float("nan")

    def wait_until_ready(self) -> None:
        """Until it listens.

        Raises:
            StartError: it ended, or took too long.
        """

        def ready() -> bool:
            self._alive("miner")
            return any(event.get("event") == "ready" for event in self._events())

        _wait(ready, READY_S, f"the miner was not ready within {READY_S:.0f} s (log: {self._log})")
        self.ready_s = time.monotonic() - self.spawned_at

    def wait_for_bundle(self, bundle: str) -> None:
        """Until a bundle is live.

        Raises:
            StartError: it was refused, or took too long.
        """

        def live() -> bool:
            self._alive("miner")
            events = [e for e in self._events() if e.get("event") in ("bundle_live", "bundle_refused")]
            if events and events[-1]["event"] == "bundle_refused":
                raise StartError(f"the miner refused the bundle: {events[-1].get('reason')}")
            return any(event.get("bundle") == bundle for event in events)

        _wait(live, SWAP_S, f"bundle {bundle} was not live within {SWAP_S:.0f} s (log: {self._log})")

    def _events(self) -> list[dict[str, Any]]:
        events = []
        for line in self._log.read_text(errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events


class ValidatorProcess(_Process):
    """The loopback validator.

    Args:
        wallets: directory of wallets.
        name: the validator's wallet.
        port: the miner's axon.
        miner_hotkey: the miner's address.
        stream: what it does to pictures.
        seed: of its draws.
        log: where its log goes.
    """

    def __init__(
        self, wallets: Path, name: str, port: int, miner_hotkey: str, stream: Stream, seed: int, log: Path
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "miner.demo.loopback_validator",
            "--port",
            str(port),
            "--miner-hotkey",
            miner_hotkey,
        ]
        command += ["--stream", stream, "--seed", str(seed)]
        super().__init__([*command, "--wallet-path", str(wallets), "--wallet-name", name], log)
        self._sent: list[tuple[str, int, str]] = []
        self._answers: list[dict[str, Any]] = []
        self.first_answer_at = float("nan")
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, name="validator answers", daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Until it reads requests.

        Raises:
            StartError: it ended, or took too long.
        """

        def ready() -> bool:
            self._alive("validator")
            return self._ready.is_set()

        _wait(ready, READY_S, f"the validator was not ready within {READY_S:.0f} s (log: {self._log})")

    def send(self, image: Path, label: int, group: str) -> None:
        """Have it ask about one image."""
        assert self._child.stdin is not None
        self._alive("validator")
        self._sent.append((str(image), label, group))
        self._child.stdin.write(f"{image}\n")

    def wait_for(self, count: int) -> None:
        """Until so many answers are in."""
        _wait(lambda: len(self._answers) >= count, ANSWER_S, f"no answer within {ANSWER_S:.0f} s (log: {self._log})")

    def finish(self) -> list[Asked]:
        """End the traffic and collect every answer, in order of sending."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._reader.join(ANSWER_S)
        by_image = {answer["image"]: answer for answer in self._answers}
        return [
            Asked(image=image, label=label, group=group, **_reply(by_image.get(image)))
            for image, label, group in self._sent
        ]

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            record = json.loads(line)
            if record.get("ready"):
                self._ready.set()
                continue
            if not self._answers:
                self.first_answer_at = time.monotonic()
            self._answers.append(record)


def _reply(answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        return {"sha256": "", "status": 0, "prediction": None, "ms": 0.0}
    return {"status": answer["status"] or 0} | {name: answer[name] for name in ("sha256", "prediction", "ms")}
