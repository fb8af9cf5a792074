"""Several servers as one: who is asked, and who is passed over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from engines.errors import RemoteError
from stage2_bridge.client import Stage2Error
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.servers.preferred import Member, PreferredServers

GONE = RemoteError("nobody there", passing=True)
WRONG = RemoteError("status 400")


@dataclass
class Server:
    name: str
    answers: list[float | Exception]
    asked: int = field(default=0, init=False)
    seconds: float = 0.0

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.asked += 1
        await asyncio.sleep(self.seconds)
        found = self.answers[min(self.asked, len(self.answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        if isinstance(self.answers[0], Exception):
            raise self.answers[0]
        return "ready"

    async def close(self) -> None:
        self.asked = -1


def several(*servers: Server, most: int = 4) -> PreferredServers:
    now = asyncio.get_running_loop().time
    return PreferredServers([Member(one, Breaker(now), most) for one in servers], now)


def test_the_first_is_asked_and_the_others_are_not() -> None:
    async def run() -> None:
        first, second = Server("a", [0.1]), Server("b", [0.9])
        assert await several(first, second).ask(b"", 5.0) == 0.1
        assert (first.asked, second.asked) == (1, 0)

    asyncio.run(run())


def test_where_nothing_was_computed_the_next_is_asked() -> None:
    async def run() -> None:
        first, second = Server("a", [GONE]), Server("b", [0.9])
        assert await several(first, second).ask(b"", 5.0) == 0.9

    asyncio.run(run())


def test_a_server_without_another_is_asked_once_more() -> None:
    async def run() -> None:
        only = Server("a", [GONE, 0.3])
        assert await several(only).ask(b"", 5.0) == 0.3
        twice = Server("a", [GONE])
        with pytest.raises(Stage2Error, match="a: nobody there"):
            await several(twice).ask(b"", 5.0)
        assert twice.asked == 2

    asyncio.run(run())


def test_what_may_have_been_computed_is_not_asked_for_again() -> None:
    async def run() -> None:
        first, second = Server("a", [WRONG]), Server("b", [0.9])
        with pytest.raises(Stage2Error, match="a: status 400"):
            await several(first, second).ask(b"", 5.0)
        assert (first.asked, second.asked) == (1, 0)

    asyncio.run(run())


def test_a_server_that_wants_to_be_left_alone_for_longer_than_there_is_time_is_left_alone() -> None:
    async def run() -> None:
        only = Server("a", [RemoteError("status 429", passing=True, retry_after_s=60.0)])
        with pytest.raises(Stage2Error, match="429"):
            await several(only).ask(b"", 5.0)
        assert only.asked == 1

    asyncio.run(run())


def test_what_does_not_fit_goes_to_the_next() -> None:
    async def run() -> None:
        first, second = Server("a", [0.1], seconds=0.05), Server("b", [0.9], seconds=0.05)
        servers = several(first, second, most=2)
        assert sorted(await asyncio.gather(*(servers.ask(b"", 5.0) for _ in range(4)))) == [0.1, 0.1, 0.9, 0.9]

    asyncio.run(run())


def test_a_server_that_fails_is_passed_over_without_being_asked() -> None:
    async def run() -> None:
        first, second = Server("a", [GONE]), Server("b", [0.9])
        servers = several(first, second)
        for _ in range(30):
            assert await servers.ask(b"", 5.0) == 0.9
        assert (first.asked, second.asked) == (20, 30)
        assert servers.states == {"a": "open", "b": "closed"}

    asyncio.run(run())


def test_where_no_server_can_be_asked_it_is_told_why() -> None:
    async def run() -> None:
        servers = several(Server("a", [WRONG]))
        for _ in range(20):
            with pytest.raises(Stage2Error):
                await servers.ask(b"", 5.0)
        with pytest.raises(Stage2Error, match="no server can be asked: a is open"):
            await servers.ask(b"", 5.0)

    asyncio.run(run())


def test_one_that_is_given_up_early_says_nothing_of_its_server() -> None:
    async def run() -> None:
        slow = Server("a", [0.5], seconds=60.0)
        servers = several(slow, most=100)
        for timeout_s, state in ((5.0, "closed"), (0.001, "open")):
            for _ in range(25):
                task = asyncio.ensure_future(servers.ask(b"", timeout_s))
                await asyncio.sleep(0.002)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert servers.states == {"a": state}

    asyncio.run(run())


def test_the_check_asks_all_and_keeps_their_errors() -> None:
    async def run() -> None:
        assert await several(Server("a", [GONE]), Server("b", [0.9])).check(1.0) == {"a": GONE, "b": "ready"}

    asyncio.run(run())
