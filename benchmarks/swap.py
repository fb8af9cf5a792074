"""Bundles swapped again and again in a process that is asked without pause, and what those who ask notice.

    python -m benchmarks.swap
    python -m benchmarks.swap --swaps 20 --tried 2

Four clients ask a batcher for images, each as soon as it has its answer, and compare every answer with what the bundle
that gave it says of that image when it is alone. First as shipped, with a trial of each bundle in a process of its own
and the one before standing by; then without either, so that every swap drains and frees. Numbers in brackets are those
of the list of properties that a hot swap must have. Ends with status 1 if one of them does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from benchmarks.made_bundles import SMALL, export, images, publish
from engines.backends.onnxruntime import OnnxEngine
from engines.batches import in_batches
from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import BatchSettings, SwapSettings
from engines.live.slot import BundleSlot
from engines.live.states import State
from engines.live.swap.follower import StoreFollower
from engines.machine.memory import few_arenas, give_back
from engines.store.file_names import ENGINE
from engines.store.store import Store
from stage1.preprocess import Pixels

CLIENTS = 4
TOLERANCE = 1e-3
BUNDLES = 3
# Swaps that a figure of memory is the median of.
AROUND = 5
MIB = 2**20
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Doubles = NDArray[np.float64]


def resident() -> int:
    """Resident memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """Most resident memory while it is entered, bytes, looked at every 5 ms."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, resident())


@dataclass
class Client:
    """Asks, waits, compares, and asks again.

    Attributes:
        answers: when each was asked and answered, seconds, and by which generation.
        wrong: answers that are not those of the bundle that gave them.
        back: answers of an older generation than the one before.
        failed: errors.
    """

    answers: list[tuple[float, float, int]] = field(default_factory=list)
    wrong: int = 0
    back: int = 0
    failed: list[BaseException] = field(default_factory=list)


@dataclass
class Load:
    """Clients, each on a thread of its own.

    Attributes:
        slot: lends the bundle.
        batcher: computes.
        asked: images to ask for.
        expected: roadwork scores of them by bundle.
    """

    slot: BundleSlot
    batcher: Batcher
    asked: Pixels
    expected: Mapping[str, NDArray[np.float32]]
    clients: list[Client] = field(default_factory=lambda: [Client() for _ in range(CLIENTS)])

    @contextmanager
    def running(self) -> Iterator[None]:
        done = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(c, i, done)) for i, c in enumerate(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def _ask(self, client: Client, number: int, done: threading.Event) -> None:
        generation, turn = 0, number
        while not done.is_set():
            turn = (turn + 1) % len(self.asked)
            begun = time.perf_counter()
            try:
                lease = self.slot.lease()
                outputs = self.batcher.submit(lease, self.asked[turn], deadline=time.monotonic() + 60).result(60)
            except BaseException as error:  # noqa: BLE001  whatever it is, it is a failed request
                client.failed.append(error)
                continue
            client.answers.append((begun, time.perf_counter(), lease.generation))
            away = abs(float(outputs.roadwork_score[0]) - float(self.expected[lease.bundle.bundle_id][turn]))
            client.wrong += away > TOLERANCE
            client.back += lease.generation < generation
            generation = lease.generation

    def latencies(self, spans: list[tuple[float, float]] | None = None, *, inside: bool = True) -> Doubles:
        """Seconds from asking to the answer, of the requests that overlap a span, or of those that overlap none."""
        every = [answer for client in self.clients for answer in client.answers]
        chosen = [
            end - begun
            for begun, end, _ in every
            if spans is None or any(begun < last and end > first for first, last in spans) == inside
        ]
        return np.array(chosen)

    def longest_gap(self) -> float:
        """Longest time in which nobody got an answer, seconds."""
        ends = sorted(end for client in self.clients for _, end, _ in client.answers)
        return float(np.diff(ends).max())

    def first_after_swap(self) -> Doubles:
        """Latency of the first answer of each generation but the first."""
        by_generation: dict[int, tuple[float, float]] = {}
        for begun, end, generation in (answer for client in self.clients for answer in client.answers):
            by_generation[generation] = min(by_generation.get(generation, (begun, end)), (begun, end))
        return np.array([end - begun for number, (begun, end) in sorted(by_generation.items())[1:]])


@dataclass
class Findings:
    """Properties, what was measured of them, and what would pass."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def add(self, name: str, measured: str, wanted: str, held: bool) -> None:
        self.rows.append((name, measured, wanted, held))

    def add_growth(self, name: str, memory: list[int]) -> None:
        """Resident memory after each swap, bytes: by medians, because what stands by holds now more and now less."""
        early, late = (float(np.median(part)) for part in (memory[2 : 2 + AROUND], memory[-AROUND:]))
        grown, bound = late - early, max(20 * MIB, 0.05 * early)
        told, wanted = f"{grown / MIB:+.0f} MiB from {early / MIB:.0f}", f"<= {bound / MIB:.0f} MiB"
        self.add(name, told, wanted, grown <= bound)

    def add_counts(self, name: str, load: Load, swaps: int) -> None:
        """Requests that were lost or answered by another bundle."""
        failed = sum(len(client.failed) for client in load.clients)
        asked = failed + sum(len(client.answers) for client in load.clients)
        wrong = sum(client.wrong for client in load.clients)
        self.add(f"{name}[1] requests that failed", f"{failed} of {asked} in {swaps} swaps", "0", failed == 0)
        self.add(f"{name}[2] answers of another bundle", f"{wrong}", "0", wrong == 0)

    def text(self) -> str:
        widths = [max(len(row[i]) for row in self.rows) for i in range(3)]  # type: ignore[arg-type]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), "ok" if row[3] else "FAILED"])
            for row in self.rows
        )


@dataclass(frozen=True)
class Ring:
    """Bundles to swap between, round and round, and what they say."""

    store: Store
    bundles: tuple[str, ...]
    asked: Pixels
    expected: Mapping[str, NDArray[np.float32]]


def scores(store: Store, bundle: str, asked: Pixels) -> NDArray[np.float32]:
    """What the graph of a bundle says of each image when it is alone."""
    with closing(OnnxEngine(store.path(bundle) / ENGINE)) as session:
        return in_batches(session, asked, 1).roadwork_score


def ring(home: Path, cache: Path) -> Ring:
    """Publish bundles of the same shape with other weights."""
    store, asked = Store(home / "store"), images(32, seed=2)
    found, expected = [], {}
    for seed in range(BUNDLES):
        engine = export(cache / f"small-{seed}.onnx", SMALL, seed)
        bundle = publish(store, engine, home / f"files-{seed}")
        expected[bundle] = scores(store, bundle, asked)
        found.append(bundle)
    apart = min(np.abs(expected[a] - expected[b]).max() for a in found for b in found if a != b)
    assert apart > 10 * TOLERANCE, "the bundles cannot be told apart"
    return Ring(store, tuple(found), asked, expected)


async def swaps(made: Ring, count: int, settings: SwapSettings, findings: Findings) -> None:
    """Swap so many times under load."""
    shipped = settings.trial
    name = "as shipped" if shipped else "without trial and standby"
    made.store.activate(made.bundles[0], now=NOW)
    give_back()
    alone = resident()
    follower = StoreFollower(made.store, settings=settings, options=EngineOptions(most=8))
    with Peak() as loading:
        await follower.start()
    batcher = Batcher(BatchSettings())
    load = Load(follower.slot, batcher, made.asked, made.expected)
    spans, locked, memory = [], [], []
    swap = follower.slot.swap

    def timed(bundle: Any) -> int:
        begun = time.perf_counter()
        generation = swap(bundle)
        locked.append(time.perf_counter() - begun)
        return generation

    follower.slot.swap = timed  # type: ignore[method-assign]
    with load.running(), Peak() as peak:
        await asyncio.sleep(3.0)
        serving = peak.bytes
        for number in range(1, count + 1):
            made.store.activate(made.bundles[number % BUNDLES], now=NOW)
            begun = time.perf_counter()
            await follower.refresh()
            spans.append((begun, time.perf_counter()))
            await asyncio.sleep(0.3)
            memory.append(resident())
            if sys.stderr.isatty():
                print(f"\r{name}: {number}/{count} swaps", end="", file=sys.stderr, flush=True)
        if shipped:
            await _rollbacks(follower, findings)
            await _storm(made, follower, findings)
        await asyncio.sleep(1.0)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    lives = [life.seconds() for life in follower.status().history if life.state is State.UNLOADED]
    drained = [seconds["draining"] for seconds in lives if "draining" in seconds]
    _judge(name, load, count, spans, locked, drained, memory, findings)
    need = loading.bytes - alone
    bound = 1.1 * (serving + need)
    told = f"{peak.bytes / MIB:.0f} MiB; {serving / MIB:.0f} with one that serves, {need / MIB:.0f} to load one alone"
    findings.add(f"{name}: [8] most memory", told, f"<= {bound / MIB:.0f} MiB", peak.bytes <= bound)
    assert follower.refusals == 0
    await follower.close()
    batcher.close()


def _judge(
    name: str,
    load: Load,
    count: int,
    spans: list[tuple[float, float]],
    locked: list[float],
    drained: list[float],
    memory: list[int],
    findings: Findings,
) -> None:
    findings.add_counts(f"{name}: ", load, count)
    back = sum(client.back for client in load.clients)
    findings.add(f"{name}: [3] generations that went back", f"{back}", "0", back == 0)
    steady, during = load.latencies(spans, inside=False), load.latencies(spans)
    calm, busy = (float(np.quantile(each, 0.99)) for each in (steady, during))
    gap = load.longest_gap()
    ratio = f"{busy / calm:.2f} ({calm * 1e3:.0f} -> {busy * 1e3:.0f} ms)"
    findings.add(f"{name}: [4] p99 while swapping / steady", ratio, "<= 2.5", busy <= 2.5 * calm)
    findings.add(f"{name}: [4] longest time without an answer", f"{gap * 1e3:.0f} ms", "<= 3 p99", gap <= 3 * calm)
    slow = max(locked)
    findings.add(f"{name}: [5] the switch itself, longest", f"{slow * 1e3:.3f} ms", "< 1 ms", slow < 1e-3)
    if drained:
        most, bound = max(drained), float(load.latencies().max()) + 0.05
        findings.add(f"{name}: [6] drain, longest", f"{most * 1e3:.0f} ms", f"<= {bound * 1e3:.0f} ms", most <= bound)
    if len(memory) >= 2 * AROUND:
        findings.add_growth(f"{name}: [7] memory, last swaps less the fifth", memory)
    first, usual = float(np.median(load.first_after_swap())), float(np.median(steady))
    told = f"{first / usual:.2f}"
    findings.add(f"{name}: [13] first answer after a swap / median", told, "<= 1.5", first <= 1.5 * usual)


async def _rollbacks(follower: StoreFollower, findings: Findings) -> None:
    back, done, took = follower.slot.rollback, [], []

    def noted() -> int:
        generation = back()
        done.append(time.perf_counter())
        return generation

    follower.slot.rollback = noted  # type: ignore[method-assign]
    for _ in range(10):
        begun = time.perf_counter()
        # What is waited for afterwards is the store, whose pointer follows.
        await follower.rollback(now=NOW)
        took.append(done[-1] - begun)
    slow = max(took)
    findings.add("as shipped: [14] rollback, longest of 10", f"{slow * 1e3:.1f} ms", "< 100 ms", slow < 0.1)


async def _storm(made: Ring, follower: StoreFollower, findings: Findings) -> None:
    before, asking = follower.swaps, []
    for number in range(20):
        made.store.activate(made.bundles[number % BUNDLES], now=NOW)
        asking.append(asyncio.create_task(follower.refresh()))
        await asyncio.sleep(0.02)
    await asyncio.gather(*asking)
    last, swapped = made.bundles[19 % BUNDLES], follower.swaps - before
    right = follower.live_id == last and swapped <= 20
    told = f"{swapped} swaps, the last one asked for is {'live' if follower.live_id == last else 'NOT live'}"
    findings.add("as shipped: [15] 20 requests to swap at once", told, "the last wins", right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=80, help="without trial and standby")
    parser.add_argument("--tried", type=int, default=20, help="as shipped")
    parser.add_argument("--cache", type=Path, default=Path(".cache/engines"), help="where exported models are kept")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    findings = Findings()
    few_arenas()
    with tempfile.TemporaryDirectory() as home:
        made = ring(Path(home), options.cache)
        asyncio.run(swaps(made, options.tried, SwapSettings(), findings))
        asyncio.run(swaps(made, options.swaps, SwapSettings(trial=False, standby=False), findings))
    print(findings.text())
    sys.exit(not all(held for *_, held in findings.rows))


if __name__ == "__main__":
    main()
