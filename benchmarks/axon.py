"""What a request costs the axon: ours against the SDK's `bt.Axon`, and then the whole miner around ours.

    python -m benchmarks.axon
    python -m benchmarks.axon --rounds 3 --requests 100 --json axon.json

First both axons with the same handler, which does nothing, and the same signed requests of 18 kB: CPU time of a request
and of three kinds of refusal, latency with 1, 8 and 32 clients, resident memory, and the most memory after a body of
50 MB. Rounds take turns between the two servers. Then `cascade mine` with an engine that costs next to nothing, its
journal and its log: CPU time of a request and of the refusals, and where it goes. CPU time is user and system time of
the server's process by its own clock, without its children, so a busy machine disturbs it little. Both axons parse
requests with httptools where that is installed, as it is with this project; the SDK by itself does not bring it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import Caller, body_of, make_wallet
from benchmarks.serving.client import Connection, Reply, closed_loop
from benchmarks.serving.miner import UNLIMITED, Home, Miner, free_port, photograph, text_of, wait_until
from benchmarks.serving.spread import quantiles_ms, told, told_ratio
from benchmarks.serving.usage import MIB, CpuClock, Usage

IMAGE_BYTES = 13_500
CLIENTS = (1, 8, 32)
LARGE_BYTES, LARGE_S = 50_000_000, 60.0
START_S = 60.0
WARM = 30
# CPU milliseconds.
TARGETS = {"refusal": 0.2, "whole request": 1.2}
Make = Callable[[bytes], bytes]


class Server:
    """One server that is asked.

    Args:
        pid: its process.
        port: its port.
    """

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port
        self._clock = CpuClock(pid)

    def ask(self, requests: Sequence[bytes], status: int, clients: int = 1) -> list[Reply]:
        replies = asyncio.run(closed_loop(self.port, requests, clients))
        wrong = [reply for reply in replies if reply.status != status]
        if wrong:
            raise SystemExit(f"port {self.port}: {len(wrong)} replies with another status than {status}: {wrong[0]}")
        return replies

    def cpu_ms(self, requests: Sequence[bytes], status: int) -> float:
        """CPU time of one of these requests, milliseconds."""
        before = self._clock.seconds()
        self.ask(requests, status)
        return (self._clock.seconds() - before) / len(requests) * 1e3


def kinds(caller: Caller, stranger: Caller) -> dict[str, tuple[Make, int]]:
    """Requests by name, each with the status that is expected."""
    return {
        "request": (caller.request, 200),
        "not permitted": (stranger.request, 403),
        "bad signature": (caller.forged, 401),
        "stale nonce": (caller.stale, 401),
    }


@contextmanager
def axons(home: Path, validator: Caller) -> Iterator[dict[str, Server]]:
    """Both, each in a process of its own."""
    base = [sys.executable, "-m", "benchmarks.serving.axons"]
    ports = {"ours": free_port(), "sdk": free_port()}
    commands = {
        "ours": [*base, "ours", str(ports["ours"]), validator.receiver, validator.hotkey],
        "sdk": [*base, "sdk", str(ports["sdk"]), str(home), validator.hotkey],
    }
    children = {}
    try:
        for name, command in commands.items():
            with (home / f"{name}.log").open("wb") as log:
                children[name] = subprocess.Popen(command, stdout=log, stderr=log)
        for name, child in children.items():
            is_up = partial(_up, child, ports[name], home / f"{name}.log")
            wait_until(is_up, START_S, f"{name} is silent")
        yield {name: Server(child.pid, ports[name]) for name, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
            child.wait()


def _up(child: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    if child.poll() is not None:
        raise SystemExit(f"a server ended with status {child.returncode}:\n{log.read_text()[-1000:]}")

    async def reached() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(reached())


def compare(rounds: int, count: int) -> dict[str, Any]:
    """Ours and the SDK's."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        address = make_wallet(home, "miner").hotkey.ss58_address
        validator, stranger = Caller.new(address), Caller.new(address, "stranger")
        body = body_of(base64.b64encode(os.urandom(IMAGE_BYTES)).decode())
        asked = kinds(validator, stranger)
        with axons(home, validator) as servers:
            costs: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in servers} for kind in asked}
            latencies: dict[str, dict[int, list[float]]] = {name: {c: [] for c in CLIENTS} for name in servers}
            for server in servers.values():
                for make, status in asked.values():
                    server.ask([make(body) for _ in range(WARM)], status)
            for number in range(rounds):
                # The one that goes first has the caches of nobody.
                for name in sorted(servers, reverse=bool(number % 2)):
                    for kind, (make, status) in asked.items():
                        costs[kind][name].append(servers[name].cpu_ms([make(body) for _ in range(count)], status))
                    for clients in CLIENTS:
                        requests = [validator.request(body) for _ in range(max(count, 4 * clients))]
                        replies = servers[name].ask(requests, 200, clients)
                        latencies[name][clients] += [reply.seconds for reply in replies]
            memory = {name: _memory(server, validator) for name, server in servers.items()}
    return _told_axons(costs, latencies, memory)


def _memory(server: Server, caller: Caller) -> dict[str, float]:
    """Resident memory after the load, and the most of it after a body of 50 MB; MiB."""
    before = Usage.of(server.pid)

    async def send() -> int:
        body = b'{"image": "' + b"A" * LARGE_BYTES + b'"}'
        async with Connection(server.port, LARGE_S) as connection:
            return (await connection.ask(caller.request(body))).status

    status = asyncio.run(send())
    after = Usage.of(server.pid)
    return {
        "rss": before.rss / MIB,
        "peak_before": before.peak_rss / MIB,
        "peak": after.peak_rss / MIB,
        "status": status,
    }


def _told_axons(
    costs: Mapping[str, Mapping[str, list[float]]],
    latencies: Mapping[str, Mapping[int, list[float]]],
    memory: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    print("A handler that does nothing. CPU ms a request: median (least to most of the rounds).")
    print(f"{'':<16}{'ours':<24}{'bt.Axon':<24}bt.Axon / ours, round by round")
    for kind, of in costs.items():
        ratios = [sdk / ours for sdk, ours in zip(of["sdk"], of["ours"], strict=True)]
        print(f"{kind:<16}{told(of['ours'], 3):<24}{told(of['sdk'], 3):<24}{told_ratio(ratios, 1)}")
    print("\nLatency, ms (p50 / p99), with so many clients")
    for clients in CLIENTS:
        shown = {name: "{:.1f} / {:.1f}".format(*quantiles_ms(of[clients])) for name, of in latencies.items()}
        print(f"{clients:<16}{shown['ours']:<24}{shown['sdk']}")
    print("\nMemory, MiB")
    for name, held in memory.items():
        what = (
            f"{held['peak']:.0f} at most with a body of 50 MB ({held['peak_before']:.0f} before), "
            f"status {held['status']:.0f}"
        )
        print(f"{name:<16}{held['rss']:.0f} resident after the load, {what}")
    worst = max(float(np.median(of["ours"])) for kind, of in costs.items() if kind != "request")
    _verdict("refusal", worst)
    quantiles = {n: {c: quantiles_ms(of[c]) for c in CLIENTS} for n, of in latencies.items()}
    return {"cpu_ms": costs, "latency_ms": quantiles, "memory_mib": memory}


def _verdict(what: str, cpu_ms: float) -> None:
    verdict = "met" if cpu_ms <= TARGETS[what] else "missed"
    print(f"target: a {what} costs at most {TARGETS[what]} CPU ms; here {cpu_ms:.3f}: {verdict}\n")


def whole(rounds: int, count: int) -> dict[str, Any]:
    """`cascade mine`, without and with timers around its parts, in turns."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home.make(Path(directory))
        engine = linear(home.path / "linear.onnx", SIZE_PX)
        home.activate(publish(home.store, engine, home.path / "files"))
        body, asked = body_of(text_of(photograph(0))), kinds(home.callers[0], home.stranger)
        settings = UNLIMITED | {"engine.threads": 1}
        costs: dict[str, list[float]] = {kind: [] for kind in asked}
        timed: dict[str, list[float]] = {kind: [] for kind in asked}
        parts: dict[str, dict[str, list[float]]] = {kind: {} for kind in asked}
        with home.miner("plain", settings) as plain, home.miner("timed", settings, parts=True) as watched:
            servers = {m.port: Server(m.process.pid, m.port) for m in (plain, watched)}
            for server in servers.values():
                for make, status in asked.values():
                    server.ask([make(body) for _ in range(WARM)], status)
            for _ in range(rounds):
                for kind, (make, status) in asked.items():
                    costs[kind].append(servers[plain.port].cpu_ms([make(body) for _ in range(count)], status))
                    requests = [make(body) for _ in range(count)]
                    cost, found = _parts(watched, servers[watched.port], requests, status)
                    timed[kind].append(cost)
                    for part, cpu_ms in found.items():
                        parts[kind].setdefault(part, []).append(cpu_ms)
    return _told_whole(costs, timed, parts)


def _parts(miner: Miner, server: Server, requests: Sequence[bytes], status: int) -> tuple[float, dict[str, float]]:
    before = miner.parts()["seconds"]
    cost = server.cpu_ms(requests, status)
    after = miner.parts()["seconds"]
    found = {part: (after[part] - before.get(part, 0.0)) / len(requests) * 1e3 for part in after}
    return cost, {part: cpu_ms for part, cpu_ms in found.items() if cpu_ms > 0}


def _told_whole(
    costs: Mapping[str, list[float]],
    timed: Mapping[str, list[float]],
    parts: Mapping[str, Mapping[str, list[float]]],
) -> dict[str, Any]:
    print("The whole miner with a tiny engine, its journal, and its log at level INFO. CPU ms: median (least to most).")
    for kind, values in costs.items():
        print(f"{kind:<16}{told(values, 3)}")
    for kind in costs:
        total = float(np.median(timed[kind]))
        print(f"\nWhere the CPU time of one goes ({kind}; {total:.3f} ms with the timers)")
        middle = {part: float(np.median(values)) for part, values in parts[kind].items()}
        middle["event loop, threads, sockets"] = total - sum(middle.values())
        for part, cpu_ms in sorted(middle.items(), key=lambda item: -item[1]):
            print(f"  {part:<30}{cpu_ms:.3f}  {cpu_ms / total:4.0%}")
    _verdict("whole request", float(np.median(costs["request"])))
    return {"cpu_ms": costs, "cpu_ms_with_timers": timed, "parts": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=200, help="of each kind, a round and server")
    parser.add_argument("--part", choices=("axon", "miner"), help="only the axons, or only the whole miner")
    parser.add_argument("--json", type=Path, help="the figures of every round are written here")
    options = parser.parse_args()
    found = {}
    if options.part != "miner":
        found["axon"] = compare(options.rounds, options.requests)
    if options.part != "axon":
        found["miner"] = whole(options.rounds, options.requests)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
