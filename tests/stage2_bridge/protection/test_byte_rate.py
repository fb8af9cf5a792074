from __future__ import annotations

import asyncio

import pytest

from stage2_bridge.client import Congested
from stage2_bridge.protection.byte_rate import ByteRate
from tests.support.virtual_time import clock, run


def test_after_a_pause_a_second_of_bytes_goes_at_once_and_the_rest_in_order_and_in_time() -> None:
    went: list[tuple[int, float]] = []

    async def scenario() -> None:
        rate = ByteRate(1000, clock)
        await asyncio.sleep(100)
        began = clock()

        async def send(number: int) -> None:
            await rate.take(250, clock() + 1e6)
            went.append((number, clock() - began))

        await asyncio.gather(*(send(number) for number in range(12)))

    run(scenario())
    assert [number for number, _ in went] == list(range(12))
    assert [at for _, at in went] == pytest.approx([0.0] * 4 + [0.25 * k for k in range(1, 9)])


def test_no_second_has_more_than_twice_the_rate_and_an_hour_has_the_rate() -> None:
    async def scenario() -> list[float]:
        rate, went = ByteRate(1000, clock), []
        for _ in range(3600):
            await rate.take(1000, clock() + 1e6)
            went.append(clock())
        return went

    went = run(scenario())
    assert went[-1] - went[0] == pytest.approx(3598, abs=2)


def test_what_is_larger_than_a_second_of_bytes_goes_and_what_follows_waits_for_it() -> None:
    async def scenario() -> tuple[float, float]:
        rate = ByteRate(1000, clock)
        await asyncio.sleep(10)
        await rate.take(5000, clock() + 0.1)
        first = clock()
        await rate.take(1000, clock() + 1e6)
        return first, clock()

    assert run(scenario()) == pytest.approx((10.0, 15.0))


def test_who_has_no_time_to_wait_is_told_at_once_and_takes_nothing() -> None:
    async def scenario() -> float:
        rate = ByteRate(1000, clock)
        await rate.take(1000, clock() + 1)
        await rate.take(1000, clock() + 2)
        for _ in range(50):
            with pytest.raises(Congested, match="1000 bytes a second"):
                await rate.take(1000, clock() + 0.5)
        await rate.take(1000, clock() + 5)
        return clock()

    assert run(scenario()) == pytest.approx(2.0)


def test_who_gives_up_waiting_gives_back_what_it_had() -> None:
    async def scenario() -> float:
        rate = ByteRate(1000, clock)
        await rate.take(1000, 1e6)
        leavers = [asyncio.ensure_future(rate.take(1000, 1e6)) for _ in range(20)]
        await asyncio.sleep(0)
        for one in leavers:
            one.cancel()
        await asyncio.gather(*leavers, return_exceptions=True)
        await rate.take(1000, 1e6)
        return clock()

    assert run(scenario()) <= 1.0
