"""Children of a simulation: a miner and a validator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from engines.machine.bounds import end_with_parent
from miner.errors import StartError
from miner.settings import PREFIX
from miner.simulation.exchange import Challenge, Exchange, Target
from stage1.certificate.stream import Stream

READY_S = 300.0
SWAP_S = 300.0
ANSWER_S = 30.0
STOP_S = 15.0
POLL_S = 0.05
# What validators of the subnet wait for an answer.
TIMEOUT_S = 9.0
SAID = ("sha256", "replied", "status", "message", "prediction", "ms", "bundle")


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def wait_until(condition: Callable[[], bool], timeout_s: float, problem: str) -> None:
    """Wait for a condition.

    Raises:
        StartError: it did not come true in time; says the problem.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StartError(problem)
        time.sleep(POLL_S)


class ChildProcess:
    """A child that ends with this process; Ctrl-C on the terminal does not reach it.

    Args:
        command: its command line.
        log: where its standard error goes.
        what: what messages call it.
        environment: its environment; this process's by default.
    """

    def __init__(self, command: list[str], log: Path, what: str, environment: dict[str, str] | None = None) -> None:
        self._what = what
        self._log = log
        self._errors = log.open("wb")
        self.spawned_at = time.monotonic()
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=environment,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  it makes one system call
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def problem(self) -> str | None:
        """How it ended; None while it runs."""
        if self._child.poll() is None:
            return None
        return f"the {self._what} ended with status {self._child.returncode}: {last_line(self._log)} (log: {self._log})"

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
                # Of a child that is gone there may be a line that nobody reads.
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            StartError: it ended; says how.
        """
        if (problem := self.problem) is not None:
            raise StartError(problem)


class MinerProcess(ChildProcess):
    """`cascade mine` with an offline chain.

    Args:
        settings: a file of settings, the only ones that count.
        log: where its log goes, as JSON lines.
    """

    def __init__(self, settings: Path, log: Path) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
        command = [sys.executable, "-m", "miner.cli", "mine", "--config", str(settings)]
        super().__init__(command, log, "miner", ours)
        self.ready_s = float("nan")
        self.port = 0

    def wait_until_ready(self) -> None:
        """Until it listens.

        Raises:
            StartError: it ended, or took too long.
        """

        def ready() -> bool:
            self.check()
            found = [event for event in self._events() if event.get("event") == "ready"]
            self.port = found[0]["port"] if found else 0
            return bool(found)

        wait_until(ready, READY_S, f"the miner was not ready within {READY_S:.0f} s (log: {self._log})")
        self.ready_s = time.monotonic() - self.spawned_at

    def wait_for_bundle(self, bundle: str) -> None:
        """Until a bundle is live.

        Raises:
            StartError: it was refused, or took too long.
        """

        def live() -> bool:
            self.check()
            events = [e for e in self._events() if e.get("event") in ("bundle_live", "bundle_refused")]
            if events and events[-1]["event"] == "bundle_refused":
                raise StartError(f"the miner refused the bundle: {events[-1].get('reason')}")
            return any(event.get("bundle") == bundle for event in events)

        wait_until(live, SWAP_S, f"bundle {bundle} was not live within {SWAP_S:.0f} s (log: {self._log})")

    def _events(self) -> list[dict[str, Any]]:
        events = []
        for line in self._log.read_text(errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events


@dataclass(frozen=True)
class Manner:
    """How a validator asks.

    Attributes:
        keys: directory of its wallet.
        wallet: name of its wallet.
        stream: what it does to pictures.
        seed: of its draws.
        timeout_s: how long it waits for an answer.
    """

    keys: Path
    wallet: str
    stream: Stream
    seed: int
    timeout_s: float = TIMEOUT_S


class ValidatorProcess(ChildProcess):
    """A validator; see `miner.simulation.validator`.

    Args:
        target: the miner.
        manner: how it asks.
        log: where its log goes.
    """

    def __init__(self, target: Target, manner: Manner, log: Path) -> None:
        command = [sys.executable, "-m", "miner.simulation.validator", "--host", target.host]
        command += ["--port", str(target.port), "--miner-hotkey", target.hotkey]
        command += ["--stream", manner.stream, "--seed", str(manner.seed), "--timeout-s", str(manner.timeout_s)]
        command += ["--wallet-path", str(manner.keys), "--wallet-name", manner.wallet]
        super().__init__(command, log, "validator")
        self.sent: list[Challenge] = []
        self._answers: dict[str, dict[str, Any]] = {}
        self._came = threading.Condition()
        self.first_answer_at = float("nan")
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, name="validator answers", daemon=True)
        self._reader.start()

    @property
    def in_flight(self) -> int:
        """Challenges that were sent and are not answered."""
        return len(self.sent) - len(self._answers)

    def wait_until_ready(self) -> None:
        """Until it reads challenges.

        Raises:
            StartError: it ended, or took too long.
        """

        def ready() -> bool:
            self.check()
            return self._ready.is_set()

        wait_until(ready, READY_S, f"the validator was not ready within {READY_S:.0f} s (log: {self._log})")

    def send(self, challenge: Challenge) -> None:
        """Have it ask about one image.

        Raises:
            StartError: it ended.
        """
        assert self._child.stdin is not None
        self.check()
        self.sent.append(challenge)
        try:
            self._child.stdin.write(json.dumps({"name": challenge.name, "image": str(challenge.image)}) + "\n")
        except BrokenPipeError:
            self._child.wait(STOP_S)
            self.check()

    def wait_for(self, count: int) -> None:
        """Until so many answers are in."""
        wait_until(lambda: len(self._answers) >= count, ANSWER_S, f"no answer within {ANSWER_S:.0f} s ({self._log})")

    def wait_for_answer(self, timeout_s: float) -> None:
        """Until another answer comes, or for so long."""
        with self._came:
            self._came.wait(timeout_s)

    def finish(self) -> list[Exchange]:
        """End the traffic and wait for every answer; see `exchanges`."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._reader.join(ANSWER_S)
        return self.exchanges(unanswered=True)

    def exchanges(self, *, unanswered: bool) -> list[Exchange]:
        """What came of the challenges, in order of sending; those whose picture could not be sent are left out.

        Args:
            unanswered: with those of which nothing is known.
        """
        found = []
        for challenge in self.sent:
            said = self._answers.get(challenge.name)
            if (said is None and not unanswered) or (said is not None and "unsent" in said):
                continue
            found.append(_exchange(challenge, said))
        return found

    @property
    def unsent(self) -> list[str]:
        """Of each picture that could not be sent, why."""
        return [said["unsent"] for said in list(self._answers.values()) if "unsent" in said]

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            record = json.loads(line)
            if record.get("ready"):
                self._ready.set()
                continue
            if not self._answers:
                self.first_answer_at = time.monotonic()
            with self._came:
                self._answers[record["name"]] = record
                self._came.notify_all()


def _exchange(challenge: Challenge, said: dict[str, Any] | None) -> Exchange:
    known = {"message": "nothing came"} if said is None else {key: said[key] for key in SAID}
    return Exchange(challenge.name, str(challenge.image), challenge.label, challenge.group, **known)
