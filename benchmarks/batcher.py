"""Throughput of single requests that share engine calls, against the bare engine on batches that are ready.

    python -m benchmarks.batcher
    python -m benchmarks.batcher --clients 64 --batch 32 --seconds 10

Both sides run the same engine on the same cores, in turns. The clients are threads, each with one request at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.made_bundles import SMALL, export, images, publish
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot
from engines.store.store import Store
from stage1.preprocess import Pixels


def bare(slot: BundleSlot, asked: Pixels, size: int, seconds: float) -> float:
    """Images a second of the engine alone."""
    done, begun = 0, time.perf_counter()
    with slot.lease() as lease:
        while time.perf_counter() - begun < seconds:
            lease.bundle.engine.infer(asked[:size])
            done += size
    return done / (time.perf_counter() - begun)


def shared(slot: BundleSlot, asked: Pixels, size: int, seconds: float, clients: int) -> tuple[float, float, float]:
    """Images a second of clients through a batcher, images a call, and the 99th percentile of their seconds."""
    batcher, stop = Batcher(BatchSettings(max_batch=size)), threading.Event()
    took: list[list[float]] = [[] for _ in range(clients)]

    def ask(number: int) -> None:
        while not stop.is_set():
            begun = time.perf_counter()
            batcher.submit(slot.lease(), asked[number % len(asked)], deadline=time.monotonic() + 60).result()
            took[number].append(time.perf_counter() - begun)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    batcher.close()
    every = np.concatenate([np.array(each) for each in took])
    return len(every) / elapsed, batcher.stats.images / batcher.stats.batches, float(np.quantile(every, 0.99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8, help="images of one engine call at most")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each side in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".cache/engines"), help="where the exported model is kept")
    options = parser.parse_args()
    engine = export(options.cache / "small-0.onnx", SMALL, 0)
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(home) / "store")
        slot, asked = BundleSlot(), images(max(32, options.batch))
        slot.swap(load_bundle(store.path(publish(store, engine, Path(home) / "files")), most=options.batch))
        _rounds(lambda: bare(slot, asked, options.batch, options.seconds), slot, asked, options)
        slot.close()


def _rounds(alone: Callable[[], float], slot: BundleSlot, asked: Pixels, options: argparse.Namespace) -> None:
    ratios = []
    for number in range(options.rounds):
        first = alone()
        rate, size, slow = shared(slot, asked, options.batch, options.seconds, options.clients)
        second = alone()
        ratios.append(rate / ((first + second) / 2))
        print(
            f"round {number + 1}: bare {first:.1f} and {second:.1f} images/s in batches of {options.batch}; "
            f"{options.clients} clients {rate:.1f} images/s, {size:.1f} a call, p99 {slow * 1e3:.0f} ms; "
            f"ratio {ratios[-1]:.3f}"
        )
    print(f"median ratio {np.median(ratios):.3f}")


if __name__ == "__main__":
    main()
