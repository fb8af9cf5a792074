"""Servers that refuse some images, and servers that refuse all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from engines.errors import RemoteError
from stage2_bridge.client import ImageRefused, ServerIdentity, Stage2Error
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.sample_image import noise_image
from stage2_bridge.servers.member import Member
from stage2_bridge.servers.preferred import PreferredServers
from stage2_bridge.servers.refusal_watch import RefusalWatch

REFUSAL = RemoteError("status 400: unknown field", status=400)


class Server:
    """Answers what it likes, and counts how often it was asked about an image of ours."""

    name = "vlm"

    def __init__(self, answer: Callable[[bytes], float | Exception]) -> None:
        self.answer = answer
        self.probes = 0

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.probes += content == noise_image()
        found = self.answer(content)
        if isinstance(found, Exception):
            raise found
        return found

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        return "ready"

    async def identity(self, timeout_s: float) -> ServerIdentity:  # noqa: ARG002
        return ServerIdentity.made("fake", self.name, "model", "1")

    async def close(self) -> None:
        pass


def watched(server: Server) -> PreferredServers:
    return PreferredServers([Member(RefusalWatch(server, time.monotonic), Breaker(time.monotonic), 4)], time.monotonic)


def refused(servers: PreferredServers, times: int, content: bytes = b"image") -> list[str]:
    async def run() -> list[str]:
        told = []
        for _ in range(times):
            with pytest.raises(Stage2Error) as caught:
                await servers.ask(content, 5.0)
            told.append(str(caught.value))
        return told

    return asyncio.run(run())


@pytest.mark.parametrize("refusal", [REFUSAL, ImageRefused("the answer 'A street.' is neither yes nor no")])
def test_a_server_that_refuses_everything_is_left_alone_and_told(refusal: Exception) -> None:
    server = Server(lambda _: refusal)
    servers = watched(server)
    told = refused(servers, 60)
    assert servers.states == {"vlm": "open"}
    assert "every image" not in told[10]
    assert "it refuses every image" in told[30]
    assert "no server can be asked" in told[-1]
    assert server.probes == 1


def test_a_caller_with_bad_images_keeps_nobody_from_a_server_that_answers_others() -> None:
    server = Server(lambda content: REFUSAL if content == b"image" else 0.7)
    servers = watched(server)
    assert "every image" not in " ".join(refused(servers, 60))
    assert servers.states == {"vlm": "closed"}
    assert server.probes == 1
    assert asyncio.run(servers.ask(b"good", 5.0)) == 0.7


def test_a_server_that_answers_again_is_trusted_again() -> None:
    async def run() -> None:
        server = Server(lambda _: REFUSAL)
        watch = RefusalWatch(server, time.monotonic, most=2)
        for _ in range(3):
            with pytest.raises((RemoteError, Stage2Error)):
                await watch.ask(b"image", 5.0)
        server.answer = lambda _: 0.2
        assert await watch.ask(b"image", 5.0) == 0.2
        server.answer = lambda _: REFUSAL
        with pytest.raises(RemoteError):
            await watch.ask(b"image", 5.0)

    asyncio.run(run())


@pytest.mark.parametrize("trouble", [RemoteError("no reply", timed_out=True), Stage2Error("it is NaN")])
def test_other_failures_say_nothing_of_refusals(trouble: Exception) -> None:
    server = Server(lambda content: trouble if content == noise_image() else REFUSAL)
    assert "every image" not in " ".join(refused(watched(server), 30))


def test_of_images_that_are_refused_together_one_is_looked_into_while_that_is_paid_for() -> None:
    async def run() -> tuple[int, int]:
        server, paid, may_pay = Server(lambda _: REFUSAL), list[bool](), asyncio.Event()

        async def is_paid() -> bool:
            paid.append(True)
            await may_pay.wait()
            return True

        watch = RefusalWatch(server, time.monotonic, most=2, is_paid=is_paid)
        asked = [asyncio.create_task(watch.ask(b"image", 60.0)) for _ in range(8)]
        while not paid:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        may_pay.set()
        await asyncio.gather(*asked, return_exceptions=True)
        return len(paid), server.probes

    assert asyncio.run(run()) == (1, 1)
