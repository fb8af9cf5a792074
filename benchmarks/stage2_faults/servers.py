"""A miner beside a server that does one thing wrong, against a miner beside one that does nothing wrong."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.miner import Home, Miner
from benchmarks.serving.spread import quantiles_ms, smallest_change
from benchmarks.serving.usage import CpuClock
from benchmarks.stage2_servers.faults import Fault
from benchmarks.stage2_servers.running import fake
from benchmarks.stage2_servers.traffic import GREY, YELLOW, Asked, ask_in_turns, pictures, settings_of

# What a miner of this benchmark has for an answer, and what one attempt may take of it.
DEADLINE_S, ATTEMPT_S = 2.0, 0.5
# What a reply may take beyond it on a busy machine, over loopback.
SLACK_S = 0.25
# Deferred images a second: so many that a breaker has something to judge by.
PER_S, SECONDS = 20.0, 2.0


@dataclass
class Tally:
    """What became of a miner's answers.

    Attributes:
        deferred: hand-offs.
        in_time: of them, answered with a probability in time.
        slowest_s: of their replies.
        outcomes: of the hand-offs.
        exits: requests that needed no Stage-2.
        exits_answered: of them.
        p99_ms: of their replies, a round.
        cpu_ms: of the miner's process for a request of either kind, a round.
    """

    deferred: int = 0
    in_time: int = 0
    slowest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    exits: int = 0
    exits_answered: int = 0
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def add(self, exits: Asked, deferred: Asked, cpu_s: float) -> None:
        self.cpu_ms.append(cpu_s / (len(exits.replies) + len(deferred.replies)) * 1e3)
        self.exits += len(exits.replies)
        self.exits_answered += exits.in_time(DEADLINE_S)
        self.p99_ms.append(quantiles_ms([one.seconds for one in exits.replies])[1])
        self.deferred += len(deferred.replies)
        self.in_time += deferred.in_time(DEADLINE_S + SLACK_S)
        self.slowest_s = max(self.slowest_s, *(one.seconds for one in deferred.replies))
        self.outcomes += deferred.outcomes


@dataclass(frozen=True)
class Row:
    """What was measured with one fault.

    Attributes:
        fault: it.
        broken: answers of the miner beside the server that has it.
        sound: of the other one, asked in turns.
        states: that the breaker of the server had, in order.
        told: what the miner said of the server at its start.
    """

    fault: Fault
    broken: Tally
    sound: Tally
    states: list[str]
    told: str

    @property
    def ratios(self) -> list[float]:
        """Of the p99 of requests that need no Stage-2."""
        return [one / other for one, other in zip(self.broken.p99_ms, self.sound.p99_ms, strict=True)]

    @property
    def cpu_ratios(self) -> list[float]:
        """Of the CPU time of a request, which a busy machine disturbs little."""
        return [one / other for one, other in zip(self.broken.cpu_ms, self.sound.cpu_ms, strict=True)]

    @property
    def good(self) -> bool:
        every = self.broken.in_time == self.broken.deferred and self.broken.exits_answered == self.broken.exits
        return every and float(np.median(self.ratios)) <= 1.1

    @property
    def cells(self) -> tuple[str, ...]:
        broken = self.broken
        outcomes = ", ".join(f"{name} {count}" for name, count in broken.outcomes.most_common())
        return (
            f"{self.fault.name}: {self.fault.what}",
            f"{broken.in_time} of {broken.deferred}",
            f"{broken.slowest_s:.2f}",
            outcomes,
            " -> ".join(self.states),
            _told(self.ratios),
            _told(self.cpu_ratios),
        )


HEAD = (
    "fault",
    "answered in time",
    "slowest s",
    "hand-offs",
    "breaker",
    "p99 of exits",
    "CPU of a request",
)


@contextmanager
def served(directory: Path, fault: Fault | None) -> Iterator[dict[str, Any]]:
    """Settings of a server that runs, of the pinned version 1."""
    directory.mkdir()
    more = []
    if fault is not None:
        more += ["--fault", fault.name]
        if fault.tls:
            more += ["--certificate", str(certificate(directory))]
    with fake(directory, "classifier", *more) as url:
        yield {
            "kind": "kserve",
            "name": "one",
            "url": url,
            "model": "roadwork",
            "version": "1",
            "timeout_s": ATTEMPT_S,
        }


def certificate(directory: Path) -> Path:
    """One for 127.0.0.1 that vouches for itself, with its key."""
    path = directory / "server.pem"
    about = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", str(path), "-out", str(directory / "ca.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *about, *files], check=True, capture_output=True
    )
    path.write_text(path.read_text() + (directory / "ca.pem").read_text())
    return path


@contextmanager
def mining(home: Home, name: str, fault: Fault | None) -> Iterator[Miner]:
    settings = {"requests.deadline_s": DEADLINE_S}
    with (
        served(home.path / f"server-{name}", fault) as server,
        home.miner(name, settings_of([server], **settings)) as miner,
    ):
        yield miner


def measure(home: Home, sound: Miner, fault: Fault, rounds: int, exits: int) -> Row:
    """Ask both in turns, request by request, and count each round for itself."""
    of_broken, of_sound = Tally(), Tally()
    images = pictures(YELLOW, 64)
    many = [images[number % len(images)] for number in range(exits)]
    with mining(home, fault.name, fault) as broken:
        clocks = [CpuClock(one.process.pid) for one in (broken, sound)]
        for number in range(rounds):
            before = [one.seconds() for one in clocks]
            # Different ones each time: nobody has seen them before.
            deferred = pictures(GREY, round(SECONDS * PER_S), seed=number)
            ends = ask_in_turns(home, (broken, sound), many, deferred, PER_S)
            used = [clock.seconds() - was for clock, was in zip(clocks, before, strict=True)]
            for tally, end, cpu_s in zip((of_broken, of_sound), ends, used, strict=True):
                tally.add(*end, cpu_s)
        states = ["closed", *(str(one["state"]) for one in broken.events("stage2_server") if "state" in one)]
        told = [str(one["reason"]) for one in broken.events("stage2_server_fails")]
    return Row(fault, of_broken, of_sound, _short(states), told[0] if told else "")


def _told(ratios: Sequence[float]) -> str:
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; shows {smallest_change(ratios):.0%})"


def _short(states: Sequence[str]) -> list[str]:
    """Without the repetitions of a breaker that opens and is tried for a whole benchmark."""
    found = [one for one, before in zip(states, ["", *states], strict=False) if one != before]
    return found if len(found) <= 4 else [*found[:3], "...", found[-1]]
