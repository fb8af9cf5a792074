"""Watching the chain: what changes for us is told, and what fails takes nobody's access."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from miner.chain.port import ChainSnapshot, Neuron
from miner.chain.settings import ChainSettings
from miner.chain.watch import FIRST_RETRY_S, ChainWatch
from miner.errors import ChainUnavailable, ServeRefused

OURS, VALIDATOR = "5Ours", "5Validator"
HERE = {OURS: Neuron(uid=3), VALIDATOR: Neuron(uid=1, validator_permit=True)}
GONE = {VALIDATOR: HERE[VALIDATOR]}
Reading = dict[str, Neuron] | Exception
Logs = list[MutableMapping[str, Any]]


class Chain:
    """Says what it is told to say."""

    def __init__(self, readings: Sequence[Reading], refuses: int = 0) -> None:
        self.readings = list(readings)
        self.refuses = refuses
        self.now = 0.0

    async def snapshot(self) -> ChainSnapshot:
        reading = self.readings.pop(0)
        if isinstance(reading, Exception):
            raise reading
        return ChainSnapshot(block=int(self.now), neurons=reading, fetched_at=self.now)

    async def serve(self, ip: str, port: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


def watched(chain: Chain) -> tuple[Logs, list[str], list[int]]:
    """Log entries, hotkeys that were announced, and how many neurons each update had."""
    announced: list[str] = []
    updates: list[int] = []

    async def announce(hotkey: str) -> None:
        if chain.refuses:
            chain.refuses -= 1
            raise ServeRefused("not now")
        announced.append(hotkey)

    async def scenario() -> None:
        watch = ChainWatch(
            chain,
            ChainSettings(),
            [OURS],
            first=ChainSnapshot(block=0, neurons=HERE, fetched_at=0.0),
            update=lambda snapshot: updates.append(len(snapshot.neurons)),
            announce=announce,
            now=lambda: chain.now,
        )
        while chain.readings:
            chain.now += 600.0
            await watch.look()

    with capture_logs() as logs:
        asyncio.run(scenario())
    return logs, announced, updates


def events(logs: Logs, level: str) -> list[str]:
    return [entry["event"] for entry in logs if entry["log_level"] == level]


def test_a_hotkey_that_was_gone_is_announced_again_once_it_is_back() -> None:
    logs, announced, _ = watched(Chain([HERE, GONE, GONE, HERE, HERE]))
    assert events(logs, "error") == ["not_registered", "not_registered"]
    assert events(logs, "warning") == ["registered_again"]
    assert announced == [OURS]


def test_an_announcement_that_fails_is_tried_again() -> None:
    logs, announced, _ = watched(Chain([GONE, HERE, HERE, HERE], refuses=1))
    assert events(logs, "error") == ["not_registered", "not_announced"]
    assert announced == [OURS]


def test_an_empty_metagraph_takes_nobodys_access() -> None:
    logs, _, updates = watched(Chain([{}, HERE]))
    assert updates == [2]
    assert events(logs, "warning") == ["metagraph_stale"]
    assert "no neurons" in logs[0]["reason"]


def test_a_chain_that_stays_away_becomes_an_error_and_ends_the_miner() -> None:
    away: list[Reading] = [ChainUnavailable("no answer")] * 200
    chain = Chain(away)
    with capture_logs() as logs, pytest.raises(ChainUnavailable, match=r"not been read for 24\.2 hours, more than"):
        asyncio.run(_looking(chain))
    assert events(logs, "warning") == ["metagraph_stale"] * 2
    assert logs[-1]["age_s"] == pytest.approx(87_000)


async def _looking(chain: Chain) -> None:
    async def announce(_hotkey: str) -> None: ...

    first = ChainSnapshot(block=0, neurons=HERE, fetched_at=0.0)
    watch = ChainWatch(
        chain, ChainSettings(), [OURS], first=first, update=lambda _: None, announce=announce, now=lambda: chain.now
    )
    while True:
        chain.now += 600.0
        await watch.look()


def test_after_a_failure_the_chain_is_asked_sooner_and_then_more_and_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = Chain([ChainUnavailable("no answer")] * 7 + [HERE])
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if not chain.readings:
            raise asyncio.CancelledError

    monkeypatch.setattr("miner.chain.watch.asyncio.sleep", pause)
    first = ChainSnapshot(block=0, neurons=HERE, fetched_at=0.0)

    async def announce(_hotkey: str) -> None: ...

    watch = ChainWatch(
        chain, ChainSettings(), [OURS], first=first, update=lambda _: None, announce=announce, now=lambda: 0.0
    )
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch.run())
    assert pauses == [600.0, *(FIRST_RETRY_S * 2**n for n in range(6)), 600.0, 600.0]
    known = {"block": 0, "neurons": 2, "fetched_at": 0.0, "age_s": 0.0, "fresh": True}
    assert watch.status() == known | {"failures": 0, "failures_total": 7, "registered": {OURS: True}}


@pytest.mark.parametrize(("age_s", "fresh"), [(0.0, True), (1860.0, True), (1861.0, False)])
def test_what_is_known_is_fresh_for_the_time_of_three_readings(age_s: float, fresh: bool) -> None:
    async def announce(_hotkey: str) -> None: ...

    first = ChainSnapshot(block=0, neurons=HERE, fetched_at=0.0)
    watch = ChainWatch(
        Chain([]), ChainSettings(), [OURS], first=first, update=lambda _: None, announce=announce, now=lambda: age_s
    )
    assert watch.status()["fresh"] is fresh
