"""What the bridge costs a hand-off: all but the server, at a concurrency of 16.

    python -m benchmarks.stage2_load.overhead
    python -m benchmarks.stage2_load.overhead --rounds 10 --json overhead.json

Sixteen callers hand on images one after the other. The bridge has all that stands before a server: turns, the cache
(every image is another one), a budget on disk, a cap on bytes, a breaker, and hedges where they are asked for. Two
things are measured in each round: the time of a hand-off outside of a client that answers by itself after 10 to 30 ms,
and, with a server in a process of its own that takes 200 ms, the median time of a hand-off less the median that the
server says it took, which has HTTP and the kernel in it too. `cpu` is the processor time of this process for a
hand-off; the images and their hashes are made before.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving.spread import quantiles_ms, told
from benchmarks.stage2_load.slow_server import SlowServer, slow_server
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome, ServerIdentity
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.protection.byte_rate import ByteRate
from stage2_bridge.protection.settings import BudgetSettings, CacheSettings, HedgeSettings
from stage2_bridge.servers.member import Checked, Member
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.servers.preferred import PreferredServers
from stage2_bridge.settings import KserveServer

CALLERS, TAKES_S, IMAGE_BYTES = 16, 0.02, 100_000
# As slow as a large model is: sixteen callers of a quick one would keep a processor busy with HTTP alone.
SERVER_TAKES_S = 0.2
# Answers that take all the same would come together, and wait for each other.
SPREAD = 0.5
CALLS, BYTES_A_SECOND = 10**9, 10**12


@dataclass(frozen=True)
class Overhead:
    """Of one round.

    Attributes:
        p50_ms: of the time of a hand-off outside of the server.
        p99_ms: of it; NaN where it is not known which answer of the server is whose.
        cpu_ms: processor time of this process for a hand-off.
    """

    p50_ms: float
    p99_ms: float
    cpu_ms: float


class Timed:
    """Answers after a while, and knows how long it really was."""

    name = "timed"

    def __init__(self) -> None:
        self.took_s: dict[bytes, float] = {}
        self._draw = random.Random(0)

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        began = time.perf_counter()
        await asyncio.sleep(TAKES_S * self._draw.uniform(1 - SPREAD, 1 + SPREAD))
        self.took_s[content[:16]] = time.perf_counter() - began
        return 0.5

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        return "timed"

    async def identity(self, timeout_s: float) -> ServerIdentity:  # noqa: ARG002
        return ServerIdentity.made("timed", self.name, "none", "")

    async def close(self) -> None:
        """Holds nothing."""


def bridge_to(members: Sequence[Member], budget: Budget, *, hedge: bool) -> Bridge:
    """A bridge with everything that stands before a server."""
    servers = PreferredServers(members, time.monotonic, budget=budget, hedge=HedgeSettings(enabled=hedge))
    return Bridge(servers, max_in_flight=64, max_waiting=256, cache=CacheSettings(), clock=time.monotonic)


async def hand_offs(
    ask: Callable[[bytes, str], Awaitable[None]], number: int
) -> tuple[list[tuple[bytes, float]], float]:
    """Time of each hand-off by the beginning of its image, and this process's processor time for one."""
    images = [secrets.token_bytes(16) + bytes(IMAGE_BYTES) for _ in range(number)]
    left = iter([(image, hashlib.sha256(image).hexdigest()) for image in images])
    found = []

    async def caller() -> None:
        for image, digest in left:
            began = time.perf_counter()
            await ask(image, digest)
            found.append((image[:16], time.perf_counter() - began))

    cpu = time.process_time()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return found, (time.process_time() - cpu) / number * 1e3


async def measured(number: int, home: Path, server: SlowServer | None, *, hedge: bool) -> Overhead:
    """One round, with a client that answers by itself or, with a server, over HTTP."""
    settings = BudgetSettings(calls=CALLS)
    budget = Budget(settings, 1.0, StateFile(home / "budget"), clock=time.monotonic, now=time.time)
    timed = Timed()
    client: Checked = timed
    if server is not None:
        client = client_of(KserveServer(name="http", url=server.url, model="roadwork", binary=True))
    rate = ByteRate(BYTES_A_SECOND, time.monotonic)
    bridge = bridge_to([Member(client, Breaker(time.monotonic), 64, cost=Cost(), rate=rate)], budget, hedge=hedge)

    async def ask(image: bytes, digest: str) -> None:
        verdict = await bridge.ask(image, time.monotonic() + 5.0, probability=0.5, digest=digest)
        assert verdict.outcome is Outcome.ANSWERED, verdict

    await hand_offs(ask, CALLERS * 4)
    found, cpu_ms = await hand_offs(ask, number)
    await bridge.close()
    budget.close()
    if server is None:
        p50_ms, p99_ms = quantiles_ms([seconds - timed.took_s[image] for image, seconds in found])
        return Overhead(p50_ms, p99_ms, cpu_ms)
    p50_ms = float(np.median([seconds for _, seconds in found]) - np.median(server.latest_s(number))) * 1e3
    return Overhead(p50_ms, float("nan"), cpu_ms)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--number", type=int, default=2000, help="hand-offs of a round")
    parser.add_argument("--json", type=Path, help="write all rounds there")
    options = parser.parse_args(words)
    rounds: dict[str, list[Overhead]] = {}
    with slow_server(SERVER_TAKES_S) as server, tempfile.TemporaryDirectory() as home:
        for _ in range(options.rounds):
            for name, asked, hedge in (
                ("bridge", None, False),
                ("bridge, hedges enabled", None, True),
                ("bridge and HTTP client", server, False),
            ):
                one = measured(options.number // (4 if asked else 1), Path(home), asked, hedge=hedge)
                rounds.setdefault(name, []).append(asyncio.run(one))
    print(f"{CALLERS} callers, {options.number} hand-offs of {IMAGE_BYTES} bytes a round; milliseconds")
    for name, found in rounds.items():
        for key in ("p50_ms", "p99_ms", "cpu_ms"):
            values = [getattr(one, key) for one in found]
            if not np.isnan(values).any():
                print(f"{name:<26}{key.removesuffix('_ms'):<6}{told(values, 3)}")
    if options.json:
        plain = {name: [asdict(one) for one in found] for name, found in rounds.items()}
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
