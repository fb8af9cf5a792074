"""What hedges and breakers are worth where one of two Stage-2 servers is slow or hangs.

    python -m benchmarks.stage2_load.two_servers
    python -m benchmarks.stage2_load.two_servers --rounds 5 --seconds 20 --json two_servers.json

Images are handed on at times that do not wait for answers (an open loop, Poisson), by the bridge and the clients of the
product, over HTTP, to two servers in processes of their own that answer in 50 ms. The arms of a round run one after the
other, and the rounds one after the other. Four things are measured:

- one of the two takes a second: in order of preference with the slow one first, as equals, and as equals with hedges;
- both are well, and one answer in twenty takes a second: without and with hedges;
- the first of the two hangs: without and with a breaker; p99, and the images without a verdict, of the whole outage and
  of its second half;
- it comes back: how long until it answers again, and until it answers nine of ten images.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.spread import quantiles_ms, told
from benchmarks.stage2_load.slow_server import HANGS_S, SlowServer, slow_server
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome, Verdict
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.servers.open_server import servers_of
from stage2_bridge.servers.preferred import PreferredServers
from stage2_bridge.settings import Stage2Settings

WELL_S, SLOW_S, DEADLINE_S = 0.05, 1.0, 3.0
OUTAGE_S = 20.0
IMAGE = bytes(20_000)
NEVER = 10**9


@dataclass(frozen=True)
class Arm:
    """What came of one arm in one round.

    Attributes:
        p50_ms: of hand-offs, whatever came of them.
        p99_ms: of them.
        lost: share without a verdict.
        second: share of the verdicts that the second server gave.
        hedged: share of the hand-offs for which a second server was asked.
    """

    p50_ms: float
    p99_ms: float
    lost: float
    second: float
    hedged: float


def settings_of(first: SlowServer, second: SlowServer, *, equal: bool, hedge: bool) -> Stage2Settings:
    """Two servers of one image each at most 64 at a time."""
    common = {"kind": "kserve", "model": "roadwork", "binary": True, "connections": 64, "timeout_s": DEADLINE_S}
    servers = [
        {**common, "name": "first", "url": first.url},
        {**common, "name": "second", "url": second.url, "equal": equal},
    ]
    more = {"hedge": {"enabled": hedge}, "cache": {"window_s": 0}, "probe_s": 0}
    return Stage2Settings.model_validate({"servers": servers, **more})


async def arrivals(bridge: Bridge, rate: float, seconds: float, seed: int) -> list[tuple[float, Verdict]]:
    """Verdicts by the time at which their images were handed on, in seconds from the beginning."""
    draw = random.Random(seed)
    began, at, asking = time.monotonic(), 0.0, []

    async def one(at: float) -> tuple[float, Verdict]:
        return at, await bridge.ask(IMAGE, time.monotonic() + DEADLINE_S)

    while at < seconds:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        asking.append(asyncio.ensure_future(one(at)))
        at += draw.expovariate(rate)
    return list(await asyncio.gather(*asking))


def arm_of(found: Sequence[tuple[float, Verdict]], servers: PreferredServers) -> Arm:
    """What came of an arm."""
    p50_ms, p99_ms = quantiles_ms([verdict.latency_ms / 1e3 for _, verdict in found])
    given = [verdict.server for _, verdict in found if verdict.outcome is Outcome.ANSWERED]
    return Arm(
        p50_ms,
        p99_ms,
        lost=1 - len(given) / len(found),
        second=given.count("second") / max(1, len(given)),
        hedged=servers.hedges["begun"] / len(found),
    )


async def measured(
    first: SlowServer, second: SlowServer, rate: float, seconds: float, seed: int, *, equal: bool, hedge: bool
) -> Arm:
    """One arm with servers as they are."""
    servers = servers_of(settings_of(first, second, equal=equal, hedge=hedge))
    bridge = Bridge(servers, max_in_flight=128, max_waiting=1024, clock=time.monotonic)
    # So that connections are open and the usual times known.
    await arrivals(bridge, rate, min(2.0, seconds), seed + 1)
    found = await arrivals(bridge, rate, seconds, seed)
    await bridge.close()
    return arm_of(found, servers)


async def outage(
    first: SlowServer, second: SlowServer, rate: float, seed: int, *, breaker: bool
) -> tuple[Arm, Arm, float, float]:
    """An outage of the first server and its second half, and the seconds from its return to its first verdict and to
    most."""
    servers = servers_of(settings_of(first, second, equal=False, hedge=False))
    if not breaker:
        for member in servers.members:
            member.breaker = Breaker(time.monotonic, fewest=NEVER)
    bridge = Bridge(servers, max_in_flight=128, max_waiting=1024, clock=time.monotonic)
    first.mean_s.value = WELL_S
    await arrivals(bridge, rate, 2.0, seed + 1)
    first.mean_s.value = HANGS_S
    found = await arrivals(bridge, rate, OUTAGE_S, seed)
    first.mean_s.value = WELL_S
    after = await arrivals(bridge, rate, 12.0, seed + 2)
    await bridge.close()
    by_first = [at for at, verdict in after if verdict.server == "first" and verdict.outcome is Outcome.ANSWERED]
    most = next((at for at, _ in after if _share_after(after, at) >= 0.9), float("nan"))
    later = [one for one in found if one[0] >= OUTAGE_S / 2]
    back_s = by_first[0] if by_first else float("nan")
    return arm_of(found, servers), arm_of(later, servers), back_s, most


def _share_after(found: Sequence[tuple[float, Verdict]], since: float) -> float:
    """Share of the second from then on that the first server answered."""
    near = [verdict for at, verdict in found if since <= at < since + 1.0]
    return sum(one.server == "first" and one.outcome is Outcome.ANSWERED for one in near) / max(1, len(near))


async def one_round(
    servers: tuple[SlowServer, SlowServer],
    uneven: tuple[SlowServer, SlowServer],
    rate: float,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """All arms once."""
    slow, well = servers
    found: dict[str, Any] = {}
    slow.mean_s.value = SLOW_S
    for name, equal, hedge in (
        ("one slow: slow one preferred", False, False),
        ("one slow: slow one preferred, hedged", False, True),
        ("one slow: equals", True, False),
        ("one slow: equals, hedged", True, True),
    ):
        found[name] = await measured(slow, well, rate, seconds, seed, equal=equal, hedge=hedge)
    for name, hedge in (("one answer in twenty slow", False), ("one answer in twenty slow, hedged", True)):
        stop = asyncio.Event()
        hiccups = asyncio.ensure_future(_hiccups(uneven, stop, seed))
        found[name] = await measured(*uneven, rate, seconds, seed, equal=True, hedge=hedge)
        stop.set()
        await hiccups
    for name, breaker in (("first hangs: no breaker", False), ("first hangs: breaker", True)):
        found[name], found[f"{name}, second half"], first_s, most_s = await outage(
            slow, well, rate, seed, breaker=breaker
        )
        found[f"{name}, back after"] = {"first_s": first_s, "most_s": most_s}
    return found


async def _hiccups(servers: Sequence[SlowServer], stop: asyncio.Event, seed: int) -> None:
    """Each server is slow for a twentieth of the time, in stretches of 50 ms that come by chance."""
    draw = random.Random(seed)
    while not stop.is_set():
        for one in servers:
            one.mean_s.value = SLOW_S if draw.random() < 0.05 else WELL_S
        await asyncio.sleep(0.05)
    for one in servers:
        one.mean_s.value = WELL_S


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each arm")
    parser.add_argument("--rate", type=float, default=40.0, help="images a second")
    parser.add_argument("--json", type=Path, help="write all rounds there")
    options = parser.parse_args(words)
    with slow_server(WELL_S) as a, slow_server(WELL_S) as b, slow_server(WELL_S) as c, slow_server(WELL_S) as d:
        rounds = [
            asyncio.run(one_round((a, b), (c, d), options.rate, options.seconds, seed))
            for seed in range(options.rounds)
        ]
    arms: defaultdict[str, list[Any]] = defaultdict(list)
    for one in rounds:
        for name, arm in one.items():
            arms[name].append(arm)
    print(f"{'arm':<40}{'p50 ms':>9}  {'p99 ms: median (least to most)':<34}{'lost':>7}{'second':>8}{'hedged':>8}")
    for name, found in arms.items():
        if not isinstance(found[0], Arm):
            for key in found[0]:
                what = "its first verdict" if key == "first_s" else "nine of ten images"
                print(f"{name:<40}{what}: {told([one[key] for one in found])} s")
            continue
        middle = {key: statistics.median(getattr(one, key) for one in found) for key in ("p50_ms", "lost", "second")}
        hedged = statistics.median(one.hedged for one in found)
        p99 = told([one.p99_ms for one in found], 0)
        shares = f"{middle['lost']:>7.1%}{middle['second']:>8.1%}{hedged:>8.1%}"
        print(f"{name:<40}{middle['p50_ms']:>9.0f}  {p99:<34}{shares}")
    if options.json:
        plain = [{k: asdict(v) if isinstance(v, Arm) else v for k, v in one.items()} for one in rounds]
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
