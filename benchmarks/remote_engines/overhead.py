"""What it costs that servers compute: a miner with them beside one without, in turns."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.remote_engines.servers import Server
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import closed_loop
from benchmarks.serving.miner import UNLIMITED, Home, Miner, photograph, text_of
from benchmarks.serving.usage import CpuClock

PICTURES = 32


@dataclass
class Cost:
    """Of each round.

    Attributes:
        own_ms: CPU of a request in a miner that computes by itself, milliseconds.
        miner_ms: in a miner whose servers compute.
        servers_ms: and in these servers.
        ratios: of the median latencies, with servers to without.
        p50_ms: median latencies with servers, milliseconds.
    """

    own_ms: list[float] = field(default_factory=list)
    miner_ms: list[float] = field(default_factory=list)
    servers_ms: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)


def overhead(home: Home, servers: Sequence[Server], *, rounds: int, requests: int, clients: int) -> Cost:
    """Rounds of requests to both miners, one after the other.

    Args:
        home: with the store.
        servers: run, and have its current bundle.
        rounds: how many.
        requests: of a round, to each of the two.
        clients: at a time.
    """
    common = UNLIMITED | {"engine.threads": 1}
    urls = f"[{', '.join(repr(one.url) for one in servers)}]".replace("'", '"')
    elsewhere = {"engine.remote": urls, "engine.servers.last_resort": "never", "engine.servers.timeout_s": 3.0}
    found = Cost()
    with home.miner("own", common) as own, home.miner("elsewhere", common | elsewhere) as other:
        for number in range(rounds + 1):
            took = {}
            for miner in (own, other) if number % 2 else (other, own):
                took[miner is own] = _round(home, miner, servers if miner is other else (), requests, clients)
            if number:
                (own_s, _, own_p50), (other_s, servers_s, other_p50) = took[True], took[False]
                found.own_ms.append(own_s / requests * 1e3)
                found.miner_ms.append(other_s / requests * 1e3)
                found.servers_ms.append(servers_s / requests * 1e3)
                found.ratios.append(other_p50 / own_p50)
                found.p50_ms.append(other_p50 * 1e3)
    return found


def _round(
    home: Home, miner: Miner, servers: Sequence[Server], requests: int, clients: int
) -> tuple[float, float, float]:
    """CPU seconds of the miner and of the servers, and the median latency in seconds."""
    [caller] = home.callers
    texts = [text_of(photograph(seed)) for seed in range(PICTURES)]
    asked = (caller.request(body_of(texts[number % PICTURES])) for number in range(requests))
    clock = CpuClock(miner.process.pid)
    before, of_servers = clock.seconds(), sum(one.cpu_s() for one in servers)
    replies = asyncio.run(closed_loop(miner.port, asked, clients))
    if any(reply.status != 200 for reply in replies):
        raise SystemExit(f"a request was not answered: {miner.last_words()}")
    spent = clock.seconds() - before, sum(one.cpu_s() for one in servers) - of_servers
    return *spent, statistics.median(reply.seconds for reply in replies)
