"""A worker that leaks is replaced by another real process, and a reading is never missed for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engines.machine.memory import resident_mib
from miner.chain.bittensor import BittensorChain
from miner.chain.settings import ChainSettings
from miner.errors import ChainUnavailable

PATIENCE_S = 240.0
LEAK_MIB = 8

# In the place of the SDK: each reading leaks, the block is the process that answers, and files say how a new one fails.
LEAKING_SDK = f"""
import os, time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).parents[1]
if (HERE / "no import").exists():
    raise ImportError("half of it is gone")
REFUSES, MUTE = (HERE / "refuses").exists(), (HERE / "mute").exists()
kept = []


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Subtensor:
    def __init__(self, network):
        if MUTE:
            (HERE / "asked").touch()
            time.sleep(3600)
        if REFUSES:
            raise ConnectionError(f"cannot reach {{network}}")

    def metagraph(self, netuid, lite):
        if not kept:
            before = HERE / "before"
            if before.exists():
                (HERE / "overlaps").open("a").write(f"{{lives(int(before.read_text()))}}\\n")
            before.write_text(str(os.getpid()))
        kept.append(bytearray(b"x") * ({LEAK_MIB} << 20))
        one = np.ones(1)
        return SimpleNamespace(
            hotkeys=["5Key"], uids=np.array([1]), validator_permit=np.array([True]), S=one, I=one,
            last_update=np.array([1]), axons=[SimpleNamespace(ip="0.0.0.0", port=0)], block=np.array(os.getpid()),
        )

    def close(self):
        pass
"""


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directory of the files that say how a new worker fails."""
    extrinsics = tmp_path / "bittensor" / "core" / "extrinsics"
    extrinsics.mkdir(parents=True)
    (tmp_path / "bittensor" / "__init__.py").write_text(LEAKING_SDK)
    for package in (extrinsics.parent, extrinsics):
        (package / "__init__.py").touch()
    (extrinsics / "serving.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def limits(*, mib: float = 1e6, calls: int = 10**6, deadline_s: float = PATIENCE_S) -> ChainSettings:
    return ChainSettings(deadline_s=deadline_s, worker_growth_mib=mib, worker_calls=calls)


@asynccontextmanager
async def chain_with(settings: ChainSettings) -> AsyncIterator[BittensorChain]:
    chain = BittensorChain("wss://node.example/secret-key", settings)
    try:
        yield chain
    finally:
        await chain.close()


async def answering(chain: BittensorChain, readings: int) -> list[int]:
    """The process that gave each reading."""
    return [(await chain.snapshot()).block for _ in range(readings)]


def test_a_worker_that_has_grown_too_much_is_replaced_before_it_ends(sdk: Path) -> None:
    async def scenario() -> tuple[list[int], list[float]]:
        pids, mib = [], []
        async with chain_with(limits(mib=2.5 * LEAK_MIB)) as chain:
            for _ in range(12):
                pids += await answering(chain, 1)
                mib.append(resident_mib(pids[-1]))
            assert [pid for pid in set(pids) if alive(pid)] == [pids[-1]]
        return pids, mib

    with capture_logs() as logs:
        pids, mib = asyncio.run(scenario())
    workers = list(dict.fromkeys(pids))
    assert len(workers) == 3
    assert [pids.count(worker) for worker in workers] == [4, 4, 4]
    assert max(mib) - min(mib) < 4 * LEAK_MIB
    # Each new one found the one before it alive.
    assert (sdk / "overlaps").read_text().split() == ["True", "True"]
    told = [entry for entry in logs if entry["event"] == "chain_worker_replaced"]
    assert [(entry["pid"], entry["by"]) for entry in told] == list(pairwise(workers))
    assert not any(alive(pid) for pid in pids)


@pytest.mark.usefixtures("sdk")
def test_a_worker_is_replaced_after_so_many_calls() -> None:
    async def scenario() -> list[int]:
        async with chain_with(limits(calls=2)) as chain:
            return await answering(chain, 5)

    first, second, third, fourth, fifth = asyncio.run(scenario())
    assert (first, third) == (second, fourth)
    assert len({first, third, fifth}) == 3


@pytest.mark.parametrize(("fails", "reason"), [("no import", "ended with status 1"), ("refuses", "cannot reach")])
def test_a_worker_stays_while_the_one_to_replace_it_fails(sdk: Path, fails: str, reason: str) -> None:
    async def scenario() -> list[int]:
        async with chain_with(limits(calls=1)) as chain:
            pids = await answering(chain, 1)
            (sdk / fails).touch()
            pids += await answering(chain, 5)
            (sdk / fails).unlink()
            return pids + await answering(chain, 4)

    with capture_logs() as logs:
        old, *during, _, new = asyncio.run(scenario())
    assert set(during[:5]) == {old}
    assert new != old
    told = [entry for entry in logs if entry["event"] == "chain_worker_kept"]
    # Five readings, and the pause doubles: tried at the first and the third of them.
    assert [entry["pid"] for entry in told] == [old, old]
    assert all(reason in entry["reason"] and entry["log_level"] == "warning" for entry in told)
    assert "secret-key" not in str(told)


def test_a_mute_successor_costs_its_deadline_and_no_reading(sdk: Path) -> None:
    async def scenario() -> tuple[int, int]:
        async with chain_with(limits(calls=1)) as chain:
            [old] = await answering(chain, 1)
            (sdk / "mute").touch()
            chain._chain = limits(calls=1, deadline_s=5)
            [still] = await answering(chain, 1)
            return old, still

    with capture_logs() as logs:
        old, still = asyncio.run(scenario())
    assert still == old
    assert [entry["reason"] for entry in logs if entry["event"] == "chain_worker_kept"] == [
        "it gave no answer within 5 s"
    ]


async def while_a_mute_successor_is_asked(sdk: Path, chain: BittensorChain) -> tuple[int, int, asyncio.Task[list[int]]]:
    [old] = await answering(chain, 1)
    (sdk / "mute").touch()
    reading = asyncio.create_task(answering(chain, 1))
    async with asyncio.timeout(PATIENCE_S):
        while not (sdk / "asked").exists():
            await asyncio.sleep(0.02)
    assert chain._successor is not None
    return old, chain._successor.pid, reading


def test_a_reading_that_is_cancelled_during_a_replacement_leaves_the_old_worker(sdk: Path) -> None:
    async def scenario() -> None:
        async with chain_with(limits(calls=1)) as chain:
            old, successor, reading = await while_a_mute_successor_is_asked(sdk, chain)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not alive(successor)
            (sdk / "mute").unlink()
            chain._chain = limits()
            assert await answering(chain, 1) == [old]

    asyncio.run(scenario())


def test_closing_during_a_replacement_ends_both(sdk: Path) -> None:
    async def scenario() -> None:
        async with chain_with(limits(calls=1)) as chain:
            old, successor, reading = await while_a_mute_successor_is_asked(sdk, chain)
            await chain.close()
            with pytest.raises(ChainUnavailable):
                await reading
            assert not alive(old)
            assert not alive(successor)

    asyncio.run(scenario())
