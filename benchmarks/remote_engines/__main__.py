"""Three miners and two servers of a kind: requests that fail while servers are swapped and killed, and the costs.

    TRITON_PYTHON=... MLSERVER_PYTHON=... RAY_PYTHON=... python -m benchmarks.remote_engines
    TRITON_PYTHON=... python -m benchmarks.remote_engines --only triton --requests 20000 --minutes 30

Each interpreter is of an environment of its own: nvidia-pytriton and onnxruntime; mlserver and onnxruntime; ray[serve]
and what a miner needs. A kind whose interpreter is not named is left out, and said so. The miners are `cascade mine`,
asked by signed requests over their axons; they compute nothing themselves. While they are asked, the store's pointer
goes from one bundle to the other and back, and each server in turn is killed with SIGKILL and started again; of Ray,
one of two replicas. A request has failed if it got no probability, or not that of Stage-1. The engine of this part
costs next to nothing. What a request costs is measured on a small DINOv3, beside a miner that computes it in its own
process. The status is 1 if a request failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.made_bundles import SIZE_PX, SMALL, export, linear, publish
from benchmarks.remote_engines.load import Load, under_load
from benchmarks.remote_engines.overhead import Cost, overhead
from benchmarks.remote_engines.servers import NEEDS, Server, mlserver, ray, running, triton
from benchmarks.serving.miner import Home
from benchmarks.serving.spread import quantiles_ms, told
from engines.remote.repository.model_repository import ModelRepository

HEAD = "| servers | requests | failed | swaps | kills | p50 ms | p99 ms | CPU-ms own | miner | servers | p50 ratio |"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.remote_engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(NEEDS), default=list(NEEDS), help="kinds of servers")
    parser.add_argument("--requests", type=int, default=20_000, help="of each kind")
    parser.add_argument("--minutes", type=float, default=20.0, help="for these, at most, for each kind")
    parser.add_argument("--miners", type=int, default=3)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=2, help="at each miner")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of costs; 0 leaves it out")
    parser.add_argument("--of", type=int, default=100, help="requests of a round")
    asked = parser.parse_args()
    failed, rows = 0, [HEAD, "|" + " --- |" * HEAD.count(" |")]
    print("\n".join(rows), flush=True)
    for kind in asked.only:
        if not os.environ.get(NEEDS[kind]):
            print(f"| {kind} | left out: {NEEDS[kind]} is not set |" + " |" * 9, flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix=f"{kind}-") as directory:
            load = measured_load(kind, Path(directory) / "load", asked)
            cost = measured_cost(kind, Path(directory) / "cost", asked) if asked.rounds else Cost()
        failed += load.failed
        print(row(kind, load, cost), flush=True)
        if load.failed:
            print(f"{kind}: {load.why}", file=sys.stderr)
    return int(failed > 0)


def row(kind: str, load: Load, cost: Cost) -> str:
    p50, p99 = quantiles_ms([reply.seconds for reply in load.replies])
    costs = [told(values, 2) if values else "" for values in (cost.own_ms, cost.miner_ms, cost.servers_ms, cost.ratios)]
    shown = [kind, len(load.replies), load.failed, load.swaps, load.kills, f"{p50:.0f}", f"{p99:.0f}", *costs]
    return f"| {' | '.join(map(str, shown))} |"


def made_home(directory: Path, engine: Path, count: int) -> tuple[Home, list[str]]:
    """A home whose store has bundles that are alike but for a note; the first is current."""
    home = Home.make(directory)
    bundles = []
    for number in range(count):
        note = directory / "note"
        note.write_text(str(number))
        bundles.append(publish(home.store, engine, directory / f"files-{number}", note))
    home.store.activate(bundles[0], now=datetime.now(UTC))
    return home, bundles


def servers_of(kind: str, home: Home, directory: Path, count: int) -> tuple[list[Server], Path | None]:
    """Servers that have the current bundle, and the repository that they read."""
    if kind == "ray":
        return [ray(home.store.root, directory / "server")], None
    places = [directory / f"server-{number}" for number in range(count)]
    repository = directory / "models"
    pointer = home.store.current()
    assert pointer is not None
    ModelRepository(repository).add(home.store.path(pointer.bundle), backend="python", max_batch=8)
    make = triton if kind == "triton" else mlserver
    return [make(repository, place) for place in places], repository


def measured_load(kind: str, directory: Path, asked: argparse.Namespace) -> Load:
    directory.mkdir()
    home, bundles = made_home(directory, linear(directory / "engine.onnx", SIZE_PX), 2)
    servers, repository = servers_of(kind, home, directory, asked.servers)
    with running(*servers):
        return under_load(
            home,
            bundles,
            servers,
            miners=asked.miners,
            clients=asked.clients,
            requests=asked.requests,
            until=time.monotonic() + 60 * asked.minutes,
            repository=repository,
        )


def measured_cost(kind: str, directory: Path, asked: argparse.Namespace) -> Cost:
    directory.mkdir()
    home, _ = made_home(directory, export(directory / "small.onnx", SMALL, 0), 1)
    servers, _ = servers_of(kind, home, directory, 1)
    with running(*servers):
        return overhead(home, servers, rounds=asked.rounds, requests=asked.of, clients=1)


if __name__ == "__main__":
    sys.exit(main())
