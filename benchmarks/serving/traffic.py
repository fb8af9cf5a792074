"""Mixed traffic on one miner, from a process of its own: validators, strangers, broken callers, and a hostile one.

Each caller has an address of its own on loopback, because a miner limits the connections of one address.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from PIL import Image

from benchmarks.serving.callers import Caller, body_of
from benchmarks.serving.client import Connection, Reply
from benchmarks.serving.miner import photograph, text_of

PICTURES = 16
# Requests a second of each kind, of all callers together.
RATES = {
    "valid": 2.0,
    "valid, 1920x1080": 0.3,
    "valid, body takes 3 s": 0.2,
    "not permitted": 1.0,
    "bad signature": 0.5,
    "stale nonce": 0.5,
    "replay": 0.2,
    "wrong route": 0.3,
    "no HTTP": 0.3,
    "no JSON": 0.3,
    "no image": 0.3,
    "cut image": 0.3,
    "header that never ends": 0.2,
    "hostile: 8000x8000 PNG": 0.2,
    "hostile: body that never ends": 0.5,
}
VALID = tuple(kind for kind in RATES if kind.startswith("valid"))
FLOOD, HOLD = "hostile: flood", "hostile: headers without bodies"
# The hostile caller, once in so many seconds: as many requests at once, then as many headers without bodies.
FLOOD_EVERY_S, FLOODED, HELD, HOLD_S = 30.0, 300, 256, 8.0
# 0 is no reply: the miner closes the connection, or the caller gives up.
EXPECTED = {
    "not permitted": {403},
    "bad signature": {401},
    "stale nonce": {401},
    "replay": {401},
    "wrong route": {404},
    "no HTTP": {400},
    "no JSON": {400},
    "no image": {200},
    "cut image": {200},
    "header that never ends": {0},
    "hostile: 8000x8000 PNG": {200, 429, 503},
    "hostile: body that never ends": {0, 408, 429, 503},
    FLOOD: {0, 200, 408, 429, 503},
    HOLD: {0, 408, 429, 503},
}

# Between the pieces of a request.
PAUSES_S = {"valid, body takes 3 s": 1.0, "header that never ends": 1.0, "hostile: body that never ends": 0.5}
HALF = {"no HTTP", "header that never ends", "hostile: body that never ends"}


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        kind: of the request.
        status: as in `Reply`.
        seconds: as in `Reply`.
        prediction: what was answered, None without an answer.
    """

    kind: str
    status: int
    seconds: float
    prediction: float | None

    @property
    def expected(self) -> bool:
        """Whether the miner did what it should."""
        if self.kind in VALID:
            return self.status == 200 and self.prediction is not None and 0.0 <= self.prediction <= 1.0
        return self.status in EXPECTED[self.kind]


class Address:
    """One caller's end: connections from one address, as many as it has requests at a time."""

    def __init__(self, port: int, source: str) -> None:
        self._port = port
        self._source = source
        self._free: list[Connection] = []

    async def ask(self, *pieces: bytes, pause_s: float = 0.0, whole: bool = True) -> Reply:
        """Ask; a request that is not `whole` spoils its connection."""
        connection = self._free.pop() if self._free else Connection(self._port, source=self._source)
        reply = await connection.ask(*pieces, pause_s=pause_s)
        if not whole:
            connection.close()
        self._free.append(connection)
        return reply

    def close(self) -> None:
        for connection in self._free:
            connection.close()


class Traffic:
    """All callers of one miner.

    Args:
        port: of the miner.
        validators: permitted, and well behaved.
        hostile: permitted, and not.
        stranger: not permitted.
        tell: takes each outcome.
        seed: of times and pictures.
    """

    def __init__(
        self,
        port: int,
        validators: Sequence[Caller],
        hostile: Caller,
        stranger: Caller,
        tell: Callable[[Outcome], None],
        seed: int,
    ) -> None:
        self._validators = validators
        self._hostile = hostile
        self._stranger = stranger
        self._tell = tell
        self._rng = random.Random(seed)
        names = [caller.hotkey for caller in (*validators, hostile, stranger)]
        self._at = {name: Address(port, f"127.0.0.{number + 2}") for number, name in enumerate(names)}
        pictures = [photograph(seed * PICTURES + number) for number in range(PICTURES)]
        self._bodies = [body_of(text_of(picture)) for picture in pictures]
        self._cut = [body_of(text_of(picture[: len(picture) // 2])) for picture in pictures]
        self._large = [body_of(text_of(photograph(number, 1920, 1080))) for number in range(4)]
        png = body_of(text_of(_png(8000)))
        no_image = body_of(text_of(b"this is no image"))
        # What is sent instead of a request with the body that was drawn; in pieces, if there are several.
        self._makers: dict[str, Callable[[Caller, bytes], Sequence[bytes]]] = {
            "valid, 1920x1080": lambda caller, _: [caller.request(self._rng.choice(self._large))],
            "valid, body takes 3 s": lambda caller, body: [
                caller.head(len(body)),
                body[:5000],
                body[5000:10000],
                body[10000:],
            ],
            "bad signature": lambda caller, body: [caller.forged(body)],
            "stale nonce": lambda caller, body: [caller.stale(body)],
            "wrong route": lambda caller, body: [caller.request(body, route="/OtherSynapse")],
            "no HTTP": lambda _, __: [b"\x16\x03\x01 this is no HTTP\r\n\r\n"],
            "no JSON": lambda caller, body: [caller.request(body[:-20])],
            "no image": lambda caller, _: [caller.request(no_image)],
            "cut image": lambda caller, _: [caller.request(self._rng.choice(self._cut))],
            "header that never ends": lambda _, __: [b"POST /ImageSynapse HTTP/1.1\r\n", *[b"x: y\r\n"] * 20],
            "hostile: 8000x8000 PNG": lambda caller, _: [caller.request(png)],
            "hostile: body that never ends": lambda caller, _: [caller.head(10**6), *[b" "] * 20],
        }

    async def run(self, seconds: float) -> None:
        """Send all of it for so long, then wait for what is under way."""
        end, under_way = time.monotonic() + seconds, set[asyncio.Task[None]]()

        async def often(kind: str, rate: float) -> None:
            while (pause := self._rng.expovariate(rate)) < end - time.monotonic():
                await asyncio.sleep(pause)
                task = asyncio.create_task(self._one(kind))
                under_way.add(task)
                task.add_done_callback(under_way.discard)

        async def floods() -> None:
            while time.monotonic() + FLOOD_EVERY_S <= end:
                begun = time.monotonic()
                await self._flood()
                await asyncio.sleep(max(0.0, begun + FLOOD_EVERY_S - time.monotonic()))

        await asyncio.gather(floods(), *(often(kind, rate) for kind, rate in RATES.items()))
        await asyncio.gather(*under_way)
        for address in self._at.values():
            address.close()

    async def _one(self, kind: str) -> None:
        await self._tell_of(kind, self._ask(kind))

    async def _tell_of(self, kind: str, asked: Awaitable[Reply]) -> None:
        reply = await asked
        prediction = json.loads(reply.body)["prediction"] if reply.status == 200 else None
        self._tell(Outcome(kind, reply.status, reply.seconds, prediction))

    async def _ask(self, kind: str) -> Reply:
        caller = self._caller(kind)
        at = self._at[caller.hotkey]
        pieces = self._makers.get(kind, _whole)(caller, self._rng.choice(self._bodies))
        if kind == "replay":
            await at.ask(*pieces)
        return await at.ask(*pieces, pause_s=PAUSES_S.get(kind, 0.0), whole=kind not in HALF)

    def _caller(self, kind: str) -> Caller:
        if kind.startswith("hostile"):
            return self._hostile
        # Nobody has to be permitted for a header that never ends.
        if kind in {"not permitted", "header that never ends", "no HTTP", "wrong route"}:
            return self._stranger
        return self._rng.choice(self._validators)

    async def _flood(self) -> None:
        at, caller = self._at[self._hostile.hotkey], self._hostile
        requests = [caller.request(self._rng.choice(self._bodies)) for _ in range(FLOODED)]
        await asyncio.gather(*(self._tell_of(FLOOD, at.ask(request)) for request in requests))
        heads = [caller.head(10**5) for _ in range(HELD)]
        await asyncio.gather(*(self._tell_of(HOLD, at.ask(head, b"{", pause_s=HOLD_S, whole=False)) for head in heads))


def _whole(caller: Caller, body: bytes) -> Sequence[bytes]:
    return [caller.request(body)]


def _png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 120, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def send(
    port: int, validators: Sequence[Caller], hostile: Caller, stranger: Caller, seed: int, seconds: float, told: Pipe
) -> None:
    """The traffic's process: puts None into a pipe once it begins, sends for so long, and puts each outcome there."""
    traffic = Traffic(port, validators, hostile, stranger, told.send, seed)
    # Pictures take a while to make.
    told.send(None)
    asyncio.run(traffic.run(seconds))
    told.close()
