"""Several servers as one: who is asked, and who is passed over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from engines.errors import RemoteError
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import ImageRefused, NamedProbability, Outcome, ServerIdentity, ServerStatus, Stage2Error
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.servers.member import Member
from stage2_bridge.servers.preferred import PreferredServers
from tests.support.virtual_time import clock, run

GONE = RemoteError("nobody there", passing=True)
WRONG = RemoteError("status 500", status=500)


@dataclass
class Server:
    name: str
    answers: Sequence[float | Exception]
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

    async def identity(self, timeout_s: float) -> ServerIdentity:  # noqa: ARG002
        return ServerIdentity.made("fake", self.name, "model", "1")

    async def close(self) -> None:
        self.asked = -1


def several(*servers: Server, most: int = 4) -> PreferredServers:
    now = asyncio.get_running_loop().time
    return PreferredServers([Member(one, Breaker(now), most) for one in servers], now)


def test_the_first_is_asked_and_the_others_are_not() -> None:
    async def scenario() -> None:
        first, second = Server("a", [0.1]), Server("b", [0.9])
        assert await several(first, second).ask(b"", 5.0) == 0.1
        assert (first.asked, second.asked) == (1, 0)

    run(scenario())


def test_where_nothing_was_computed_the_next_is_asked() -> None:
    async def scenario() -> None:
        first, second = Server("a", [GONE]), Server("b", [0.9])
        assert await several(first, second).ask(b"", 5.0) == 0.9

    run(scenario())


def test_a_server_without_another_is_asked_once_more() -> None:
    async def scenario() -> None:
        only = Server("a", [GONE, 0.3])
        assert await several(only).ask(b"", 5.0) == 0.3
        twice = Server("a", [GONE])
        with pytest.raises(Stage2Error, match="a: nobody there"):
            await several(twice).ask(b"", 5.0)
        assert twice.asked == 2

    run(scenario())


def test_what_may_have_been_computed_is_not_asked_for_again() -> None:
    async def scenario() -> None:
        first, second = Server("a", [WRONG]), Server("b", [0.9])
        with pytest.raises(Stage2Error, match="a: status 500"):
            await several(first, second).ask(b"", 5.0)
        assert (first.asked, second.asked) == (1, 0)

    run(scenario())


def test_a_server_that_wants_to_be_left_alone_for_longer_than_there_is_time_is_left_alone() -> None:
    async def scenario() -> None:
        only = Server("a", [RemoteError("status 429", passing=True, retry_after_s=60.0)])
        with pytest.raises(Stage2Error, match="429"):
            await several(only).ask(b"", 5.0)
        assert only.asked == 1

    run(scenario())


def test_what_does_not_fit_goes_to_the_next() -> None:
    async def scenario() -> None:
        first, second = Server("a", [0.1], seconds=0.05), Server("b", [0.9], seconds=0.05)
        servers = several(first, second, most=2)
        assert sorted(await asyncio.gather(*(servers.ask(b"", 5.0) for _ in range(4)))) == [0.1, 0.1, 0.9, 0.9]

    run(scenario())


def test_where_all_are_full_an_image_waits_and_whoever_gives_up_takes_no_turn_away() -> None:
    async def scenario() -> None:
        first, second = Server("a", [0.1], seconds=0.02), Server("b", [0.9], seconds=0.02)
        servers = several(first, second, most=1)
        tasks = [asyncio.ensure_future(servers.ask(b"", 5.0)) for _ in range(12)]
        await asyncio.sleep(0.01)
        assert servers.servers == (ServerStatus("a", "full", 1), ServerStatus("b", "full", 1))
        for task in tasks[2::3]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, float) for one in found) == 8
        late = several(Server("a", [0.1], seconds=0.2), most=1)
        with pytest.raises(Stage2Error, match="a is full"):
            await asyncio.gather(late.ask(b"", 5.0), late.ask(b"", 0.05))

    run(scenario())


def test_a_server_that_fails_is_passed_over_without_being_asked() -> None:
    async def scenario() -> None:
        first, second = Server("a", [GONE]), Server("b", [0.9])
        servers = several(first, second)
        for _ in range(30):
            assert await servers.ask(b"", 5.0) == 0.9
        assert (first.asked, second.asked) == (20, 30)
        assert servers.states == {"a": "open", "b": "closed"}

    run(scenario())


def test_where_no_server_can_be_asked_it_is_told_why() -> None:
    async def scenario() -> None:
        servers = several(Server("a", [WRONG]))
        for _ in range(20):
            with pytest.raises(Stage2Error):
                await servers.ask(b"", 5.0)
        with pytest.raises(Stage2Error, match="no server can be asked: a is open"):
            await servers.ask(b"", 5.0)

    run(scenario())


class Ahead:
    """The clock of the loop, which can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> float:
        return self._loop.time() + self.ahead


def given_up(given_s: float, after_s: float) -> dict[str, str]:
    """How a server stands after thirty requests that were cancelled so late."""

    async def scenario() -> dict[str, str]:
        clock = Ahead()
        slow = Server("a", [0.5], seconds=60.0)
        servers = PreferredServers([Member(slow, Breaker(clock), 100)], clock)
        for _ in range(30):
            task = asyncio.ensure_future(servers.ask(b"", given_s))
            await asyncio.sleep(0)
            clock.ahead += after_s
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            clock.ahead -= after_s
        return servers.states

    return run(scenario())


def test_one_that_is_given_up_early_says_nothing_of_its_server() -> None:
    assert given_up(5.0, 0.1) == {"a": "closed"}


def test_one_that_is_not_waited_for_any_longer_counts_unless_it_had_hardly_time() -> None:
    assert given_up(5.0, 5.0) == {"a": "open"}
    assert given_up(0.5, 0.5) == {"a": "closed"}


@pytest.mark.parametrize(
    ("error", "given_s"),
    [
        (ImageRefused("neither yes nor no"), 5.0),
        (RemoteError("status 400", status=400), 5.0),
        (RemoteError("status 422", status=422), 5.0),
        (RemoteError("no reply within 0.5 s", timed_out=True), 0.5),
        (RemoteError("ReadError", stale=True), 5.0),
    ],
)
def test_what_one_caller_can_bring_about_does_not_have_a_server_left_alone(error: Exception, given_s: float) -> None:
    async def scenario() -> None:
        servers = several(Server("a", [error] * 100 + [0.5]))
        for _ in range(100):
            with pytest.raises(Stage2Error):
                await servers.ask(b"", given_s)
        assert await servers.ask(b"", 5.0) == 0.5

    run(scenario())


def test_an_image_that_a_server_fails_on_does_not_have_it_left_alone_while_it_answers_others() -> None:
    async def scenario() -> None:
        clock = Ahead()
        answers: list[float | Exception] = [0.5, WRONG, WRONG, WRONG] * 30
        mixed = PreferredServers([Member(Server("a", answers), Breaker(clock), 4)], clock)
        for number in range(150):
            assert mixed.states == {"a": "closed"}, number
            with contextlib.suppress(Stage2Error):
                await mixed.ask(b"", 5.0)
        clock.ahead += 11.0
        for _ in range(20):
            with pytest.raises(Stage2Error):
                await mixed.ask(b"", 5.0)
        assert mixed.states == {"a": "open"}

    run(scenario())


def test_a_server_that_has_no_answer_in_a_fair_time_is_left_alone() -> None:
    async def scenario() -> None:
        servers = several(Server("a", [RemoteError("no reply within 4 s", timed_out=True)]))
        for _ in range(20):
            with pytest.raises(Stage2Error):
                await servers.ask(b"", 5.0)
        assert servers.states == {"a": "open"}

    run(scenario())


def test_a_failure_that_is_not_sent_again_uses_up_nobodys_trial() -> None:
    async def scenario() -> None:
        clock = Ahead()
        first, second = Server("a", [0.1] * 20 + [WRONG, GONE]), Server("b", [WRONG] * 20 + [0.9])
        a, b = (Member(one, Breaker(clock), 4) for one in (first, second))
        for _ in range(20):
            with pytest.raises(Stage2Error):
                await PreferredServers([b], clock).ask(b"", 5.0)
        servers = PreferredServers([a, b], clock)
        for _ in range(20):
            await servers.ask(b"", 5.0)
        clock.ahead += 6.0
        with pytest.raises(Stage2Error, match="status 500"):
            await servers.ask(b"", 5.0)
        assert await servers.ask(b"", 5.0) == 0.9
        assert servers.states == {"a": "closed", "b": "closed"}

    run(scenario())


def test_a_second_attempt_finds_no_place_in_a_server_that_filled_up_meanwhile() -> None:
    async def scenario() -> None:
        only = Server("a", [GONE, 0.4], seconds=0.2)
        servers = several(only, most=1)
        first = asyncio.ensure_future(servers.ask(b"", 5.0))
        await asyncio.sleep(0.21)
        assert await servers.ask(b"", 5.0) == 0.4
        with pytest.raises(Stage2Error, match="nobody there"):
            await first
        assert only.asked == 2

    run(scenario())


def test_the_answer_names_who_gave_it() -> None:
    async def scenario() -> None:
        found = await several(Server("a", [GONE]), Server("b", [0.9])).ask(b"", 5.0)
        assert isinstance(found, NamedProbability)
        assert found.server == "b"
        bridge = Bridge(several(Server("a", [GONE]), Server("b", [0.9])), max_in_flight=4, clock=clock)
        verdict = await bridge.ask(b"", clock() + 5.0)
        assert bridge.stats.servers == (ServerStatus("a", "closed", 0), ServerStatus("b", "closed", 0))
        assert (verdict.outcome, verdict.probability, verdict.server) == (Outcome.ANSWERED, 0.9, "b")

    run(scenario())


def test_the_check_asks_all_and_keeps_their_errors() -> None:
    async def scenario() -> None:
        assert await several(Server("a", [GONE]), Server("b", [0.9])).check(1.0) == {"a": GONE, "b": "ready"}

    run(scenario())


class Stubborn(Server):
    """Cannot be closed, as a file of the operator's own may be."""

    async def close(self) -> None:
        raise OSError("it does not let go")


def test_a_server_that_cannot_be_closed_is_told_and_keeps_no_other_open() -> None:
    """It ended a miner that was told to stop with status 1."""

    async def scenario() -> None:
        others = Server("a", [0.1]), Server("b", [0.9])
        with capture_logs() as logs:
            await Bridge(several(others[0], Stubborn("mine", [0.5]), others[1]), max_in_flight=1, clock=clock).close()
        assert [one.asked for one in others] == [-1, -1]
        assert [(one["event"], one["server"]) for one in logs] == [("stage2_server_not_closed", "mine")]
        assert "does not let go" in logs[0]["reason"]

    run(scenario())
