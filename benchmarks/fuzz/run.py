"""One run of broken input, in a process of its own."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzz.cases import (
    broken_bodies,
    image_seeds,
    image_texts,
    requests_with_broken_bodies,
    requests_with_broken_headers,
)
from benchmarks.fuzz.targets import Axon, Decoder
from benchmarks.serving.usage import Usage

# Cases of one run of Hypothesis.
BATCH = 200
TELL_S = 10.0
KEPT_FAILURES = 100


def bytes_of(case: str | list[bytes]) -> bytes:
    """What is written of a case: the text of an image field, or all that is sent."""
    return case.encode("utf-8", "surrogatepass") if isinstance(case, str) else b"".join(case)


class Run:
    """Tries cases until its time is over; in a process of its own.

    Args:
        options: of the command line.
        told: where it tells what it found.
        current: file of the case that is being tried, for whoever finds this process dead.
    """

    def __init__(self, options: argparse.Namespace, told: Connection, current: Path) -> None:
        self._options = options
        self._told = told
        self._current = current
        self._ends: Counter[str] = Counter()
        self._slowest = 0.0
        self._failed = 0

    def run(self) -> None:
        # Refusals are counted by their replies here.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        with tempfile.TemporaryDirectory() as home:
            target: Axon | Decoder
            cases: st.SearchStrategy[str] | st.SearchStrategy[list[bytes]]
            if self._options.target == "decoding":
                target, cases = Decoder(), image_texts(image_seeds(self._options.images))
            else:
                target = Axon(Path(home))
                if self._options.target == "headers":
                    cases = requests_with_broken_headers(target.caller)
                else:
                    cases = requests_with_broken_bodies(target.caller, broken_bodies())
            begun = told_at = time.monotonic()
            end = begun + 60 * self._options.minutes
            first, number = 0, self._options.seed
            while time.monotonic() < end:
                self._batch(target, cases, number, end)
                now, number = time.monotonic(), number + 1
                rss = Usage.of(os.getpid()).rss
                if not first and now - begun > 6 * self._options.minutes:
                    first = rss
                if now - told_at > TELL_S:
                    told_at = now
                    print(f"{now - begun:4.0f} s  {self._ends.total()} cases, {self._failed} failed", flush=True)
            target.close()
        growth = rss - (first or rss)
        found = {"ends": dict(self._ends), "failed": self._failed, "slowest_s": self._slowest, "growth": growth}
        self._told.send(found)

    def _batch(self, target: Any, cases: Any, number: int, end: float) -> None:
        @seed(number)
        @settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def every(case: Any) -> None:
            if time.monotonic() < end:
                self._try(target, case)

        every()

    def _try(self, target: Any, case: Any) -> None:
        self._current.write_bytes(bytes_of(case))
        begun = time.monotonic()
        try:
            self._ends[target.try_one(case)] += 1
        except Exception:  # noqa: BLE001  whatever it is, it is what this looks for
            self._failed += 1
            self._ends["FAILED"] += 1
            if self._failed <= KEPT_FAILURES:
                keep(self._options, bytes_of(case), traceback.format_exc(), str(self._failed))
        self._slowest = max(self._slowest, time.monotonic() - begun)


def keep(options: argparse.Namespace, content: bytes, why: str, name: str) -> None:
    options.found.mkdir(parents=True, exist_ok=True)
    path = options.found / f"{options.target}-{options.seed}-{name}"
    path.with_suffix(".input").write_bytes(content)
    path.with_suffix(".txt").write_text(why)
    print(f"failed: {path}.input: {why.strip().splitlines()[-1]}", flush=True)


def run(options: argparse.Namespace, told: Connection, current: Path) -> None:
    """See `Run`."""
    Run(options, told, current).run()
