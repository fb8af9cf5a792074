"""The whole miner under load, next to the bare engine on the same cores in the same run.

    python -m benchmarks.cascade
    python -m benchmarks.cascade --network small --rounds 2 --seconds 2     # shows that the script runs

`cascade mine` serves a DINOv3 ViT-S/16 with random weights, which is exported once and kept. It is asked in a closed
loop by 1, 16 and 64 clients, and in an open loop at 50 and 90 % of what it could answer; requests are signed before
they are sent. In every round each load has its turn, and before it the bare engine: in batches of one for one client,
in full batches for more. Printed are latency at the client, throughput, images of one engine call, and CPU time of a
request as a ratio to the bare engine's. With one client, the overhead is the latency without the time in which the
image was decoded and the engine computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_bundles import SMALL, export, images, publish
from benchmarks.random_dinov3 import VITS
from benchmarks.serving.callers import Caller, body_of
from benchmarks.serving.client import Reply, closed_loop, open_loop
from benchmarks.serving.miner import UNLIMITED, Home, Miner, photograph, text_of
from benchmarks.serving.parts import DECODING, ENGINE
from benchmarks.serving.spread import quantiles_ms, told, told_ratio
from benchmarks.serving.usage import CpuClock
from engines.backends.onnxruntime import OnnxEngine
from miner.answering.journal import read_journal

NETWORKS = {"vits": VITS, "small": SMALL}
CLIENTS = (1, 16, 64)
SHARES = (0.5, 0.9)
BATCH = 8
PICTURES = 16
# A request is fresh for 13 s.
MOST_SECONDS = 8.0
OVERHEAD_MS, CPU_RATIO = 1.0, 1.05


@dataclass
class Load:
    """What was found under one load, an entry a round.

    Attributes:
        name: of the load.
        batch: images of a call of the bare engine that it is compared with.
        latencies: of every reply, seconds.
        per_s: replies a second.
        cpu_ms: CPU time of a request.
        bare_cpu_ms: of an image of the bare engine, just before.
        bare_per_s: images a second of it.
        images: of one engine call.
    """

    name: str
    batch: int
    latencies: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    bare_cpu_ms: list[float] = field(default_factory=list)
    bare_per_s: list[float] = field(default_factory=list)
    images: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [whole / bare for whole, bare in zip(self.cpu_ms, self.bare_cpu_ms, strict=True)]


@dataclass
class Bench:
    """A miner, the bare engine, and what is sent.

    Attributes:
        miner: it runs.
        caller: asks.
        bodies: of requests.
        engine: the same as the miner's, with as many threads.
        seconds: of each load in each round.
    """

    miner: Miner
    caller: Caller
    bodies: list[bytes]
    engine: OnnxEngine
    seconds: float

    def __post_init__(self) -> None:
        self._clock = CpuClock(self.miner.process.pid)
        self.capacity = 0.0
        self.overhead: list[float] = []
        self.parts: Counter[str] = Counter()
        self.alone = 0

    def bare(self, batch: int) -> tuple[float, float]:
        """Images a second of the bare engine, and CPU milliseconds of one image."""
        asked, done, begun, cpu = images(batch), 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < self.seconds:
            self.engine.infer(asked)
            done += batch
        return done / (time.perf_counter() - begun), (time.process_time() - cpu) / done * 1e3

    def requests(self, count: int) -> list[bytes]:
        return [self.caller.request(self.bodies[number % len(self.bodies)]) for number in range(count)]

    def closed(self, load: Load, clients: int) -> None:
        """One round of so many clients."""
        rate = self.bare(load.batch)
        requests = self.requests(int(1.5 * rate[0] * self.seconds) + 2 * clients)
        before = self.miner.parts()
        replies = self._measured(
            load, rate, lambda: closed_loop(self.miner.port, _until(requests, self.seconds), clients)
        )
        if clients == 1:
            self._note_overhead(before, replies)

    def open(self, load: Load, share: float) -> None:
        """One round at a share of the capacity."""
        rate = self.bare(load.batch)
        per_s = share * self.capacity
        requests = self.requests(max(2, int(per_s * self.seconds)))
        self._measured(load, rate, lambda: open_loop(self.miner.port, requests, per_s))

    def _measured(self, load: Load, bare: tuple[float, float], ask: Any) -> list[Reply]:
        calls = self.miner.parts()["calls"].get(ENGINE, 0)
        cpu, begun = self._clock.seconds(), time.perf_counter()
        replies: list[Reply] = asyncio.run(ask())
        cpu, elapsed = self._clock.seconds() - cpu, time.perf_counter() - begun
        calls = self.miner.parts()["calls"][ENGINE] - calls
        wrong = [reply for reply in replies if reply.status != 200]
        if wrong:
            raise SystemExit(f"{load.name}: {len(wrong)} of {len(replies)} requests have no answer: {wrong[0]}")
        load.latencies += [reply.seconds for reply in replies]
        load.per_s.append(len(replies) / elapsed)
        load.cpu_ms.append(cpu / len(replies) * 1e3)
        load.bare_per_s.append(bare[0])
        load.bare_cpu_ms.append(bare[1])
        load.images.append(len(replies) / max(1, calls))
        return replies

    def _note_overhead(self, before: dict[str, Any], replies: Sequence[Reply]) -> None:
        after = self.miner.parts()
        waited = [after["waited"][part][-len(replies) :] for part in (DECODING, ENGINE)]
        self.overhead += [r.seconds - decoding - engine for r, decoding, engine in zip(replies, *waited, strict=True)]
        for part, seconds in after["seconds"].items():
            self.parts[part] += seconds - before["seconds"].get(part, 0.0)
        self.alone += len(replies)


def _until(requests: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    end = time.perf_counter() + seconds
    for request in requests:
        if time.perf_counter() > end:
            return
        yield request


def measure(bench: Bench, rounds: int) -> list[Load]:
    closed = {clients: Load(f"{clients} clients", 1 if clients == 1 else BATCH) for clients in CLIENTS}
    opened = {share: Load(f"open, {share:.0%} of capacity", BATCH) for share in SHARES}
    for clients in CLIENTS:
        # Nobody has a warm cache before this, and it says what the miner can do.
        warm = Load("warm", BATCH)
        bench.closed(warm, clients)
        bench.capacity = max(bench.capacity, warm.per_s[0])
    bench.overhead, bench.parts, bench.alone = [], Counter(), 0
    for _ in range(rounds):
        for clients, load in closed.items():
            bench.closed(load, clients)
        bench.capacity = float(np.median([rate for c, load in closed.items() if c > 1 for rate in load.per_s]))
        for share, load in opened.items():
            bench.open(load, share)
    return [*closed.values(), *opened.values()]


def report(bench: Bench, loads: Sequence[Load]) -> None:
    ratio = "CPU of a request / of the bare engine"
    print(f"{'load':<24}{'p50 ms':>8}{'p99 ms':>9}{'a second':>10}{'bare':>8}{'a call':>8}   {ratio}")
    for load in loads:
        p50, p99 = quantiles_ms(load.latencies)
        rate, bare, size = (float(np.median(each)) for each in (load.per_s, load.bare_per_s, load.images))
        print(
            f"{load.name:<24}{p50:>8.1f}{p99:>9.1f}{rate:>10.1f}{bare:>8.1f}{size:>8.1f}   {told_ratio(load.ratios, 3)}"
        )
    alone = loads[0]
    print(f"\nCPU ms of a request with one client {told(alone.cpu_ms)}, of the bare engine {told(alone.bare_cpu_ms)}")
    print(f"Where it goes, of {np.mean(alone.cpu_ms):.2f} ms on average")
    parts = {part: seconds / bench.alone * 1e3 for part, seconds in bench.parts.items() if seconds > 0}
    parts["event loop, sockets, engine's threads"] = float(np.mean(alone.cpu_ms)) - sum(parts.values())
    for part, cpu_ms in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part:<36}{cpu_ms:.3f}")
    p50, p99 = quantiles_ms(bench.overhead)
    print(f"\nOverhead without decoding and the engine, one client: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    print(f"target: p50 at most {OVERHEAD_MS} ms: {'met' if p50 <= OVERHEAD_MS else 'missed'}")
    for load in loads:
        median = float(np.median(load.ratios))
        verdict = "met" if median <= CPU_RATIO else "missed"
        print(f"target: CPU of a request at most {CPU_RATIO} of the bare engine's; {load.name} {median:.3f}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="vits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help=f"of each load in each round, {MOST_SECONDS:.0f} at most"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the engine")
    parser.add_argument("--json", type=Path, help="the figures of every round are written here")
    kept = Path(tempfile.gettempdir()) / "cascade-benchmarks"
    parser.add_argument("--cache", type=Path, default=kept, help="where the exported network is kept")
    options = parser.parse_args()
    if not 0 < options.seconds <= MOST_SECONDS:
        parser.error(f"--seconds is {options.seconds:g}; it must be above 0 and at most {MOST_SECONDS:g}")
    model = export(options.cache / f"{options.network}-0.onnx", NETWORKS[options.network], 0)
    with tempfile.TemporaryDirectory() as directory:
        home = Home.make(Path(directory))
        home.activate(publish(home.store, model, home.path / "files"))
        settings = UNLIMITED | {"engine.threads": options.threads, "engine.batch.max_batch": BATCH}
        engine = OnnxEngine(model, threads=options.threads)
        engine.warm_up(BATCH)
        bodies = [body_of(text_of(photograph(seed))) for seed in range(PICTURES)]
        with home.miner("miner", settings, parts=True) as miner:
            bench = Bench(miner, home.callers[0], bodies, engine, options.seconds)
            loads = measure(bench, options.rounds)
            report(bench, loads)
            results = Counter(record.result for record in read_journal(miner.state))
        engine.close()
    print(f"answers by their result: {dict(results)}")
    if options.json is not None:
        found = {load.name: vars(load) | {"latencies": quantiles_ms(load.latencies)} for load in loads}
        overhead = quantiles_ms(bench.overhead)
        options.json.write_text(json.dumps({"loads": found, "overhead_ms": overhead, "results": results}, indent=1))


if __name__ == "__main__":
    main()
