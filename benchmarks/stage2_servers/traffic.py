"""Pictures that a made Stage-1 exits or defers, and what becomes of those that a miner is asked about."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import Connection, Reply, closed_loop, open_loop
from benchmarks.serving.miner import UNLIMITED, WRITE_S, Home, Miner, text_of, wait_until

# The made engine takes the one for roadwork and says nothing of the other.
YELLOW, GREY = (235, 200, 20), (20, 20, 20)
CLIENTS, FEW_CLIENTS = 8, 4


def pictures(colour: tuple[int, int, int], count: int, seed: int = 0) -> list[bytes]:
    """Different JPEGs of nearly one colour."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        pixels = np.asarray(colour, np.int16) + rng.integers(-12, 13, (SIZE_PX, SIZE_PX, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=75)
        found.append(buffer.getvalue())
    return found


def home_of(directory: Path) -> Home:
    """A home whose store has a bundle of an engine that costs next to nothing; `files` in it is an engine directory."""
    home = Home.make(directory)
    home.activate(publish(home.store, linear(directory / "engine.onnx", SIZE_PX), directory / "files"))
    return home


def settings_of(servers: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Of a miner with these Stage-2 servers."""
    return {**UNLIMITED, "stage2.servers": json.dumps(list(servers)), **more}


@dataclass(frozen=True)
class Asked:
    """What became of images that a miner was asked about.

    Attributes:
        replies: as they came.
        records: of the journal, one for each that the miner took up.
    """

    replies: list[Reply]
    records: list[dict[str, Any]]

    @property
    def outcomes(self) -> Counter[str]:
        """Of the hand-offs; those that were not handed off are `exit`."""
        return Counter(str(one.get("stage2") or "exit") for one in self.records)

    @property
    def servers(self) -> Counter[str]:
        """Who answered."""
        return Counter(str(one["stage2_server"]) for one in self.records if one.get("stage2") == "answered")

    def in_time(self, seconds: float) -> int:
        """Answered with a probability, so soon."""
        return sum(one.status == 200 and one.seconds <= seconds and answers(one) for one in self.replies)


def answers(reply: Reply) -> bool:
    return 0 <= float(json.loads(reply.body)["prediction"]) <= 1


def requests(home: Home, images: Sequence[bytes]) -> Iterator[bytes]:
    """Each signed when it is sent: a miner takes no old ones."""
    [caller] = home.callers
    return (caller.request(body_of(text_of(one))) for one in images)


def ask(home: Home, miner: Miner, images: Sequence[bytes], clients: int = CLIENTS) -> Asked:
    """Ask about each, so many at a time."""
    before = len(journal(miner))
    replies = asyncio.run(closed_loop(miner.port, requests(home, images), clients))
    return Asked(replies, written(miner, before, len(images)))


def ask_in_turns(
    home: Home, miners: Sequence[Miner], exits: Sequence[bytes], deferred: Sequence[bytes], per_s: float
) -> list[tuple[Asked, Asked]]:
    """Ask each miner about the first images, in turns by image, while it is asked about the second at a rate.

    What else a machine does disturbs all of them alike.

    Returns:
        For each miner what became of the first, and of the second.
    """
    before = [len(journal(one)) for one in miners]
    left = iter(list(enumerate(exits)))
    of_exits: list[list[Reply]] = [[] for _ in miners]
    [caller] = home.callers

    async def work() -> None:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(Connection(one.port)) for one in miners]
            turns = list(zip(of_exits, connections, strict=True))
            for number, image in left:
                body = body_of(text_of(image))
                for replies, connection in turns if number % 2 else reversed(turns):
                    replies.append(await connection.ask(caller.request(body)))

    async def run() -> list[list[Reply]]:
        streams = [open_loop(one.port, list(requests(home, deferred)), per_s) for one in miners]
        of_deferred = asyncio.gather(*streams)
        await asyncio.gather(*(work() for _ in range(FEW_CLIENTS)))
        return await of_deferred

    of_deferred = asyncio.run(run())
    found = []
    for at, miner in enumerate(miners):
        records = written(miner, before[at], len(exits) + len(deferred))
        handed_on = [one for one in records if one.get("stage2") is not None]
        found.append(
            (
                Asked(of_exits[at], [one for one in records if one.get("stage2") is None]),
                Asked(of_deferred[at], handed_on),
            )
        )
    return found


def journal(miner: Miner) -> list[dict[str, Any]]:
    path = miner.state / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def written(miner: Miner, before: int, count: int) -> list[dict[str, Any]]:
    """The records since then; fewer than the count if the miner has not answered all."""
    with suppress(SystemExit):
        wait_until(lambda: len(journal(miner)) >= before + count, WRITE_S, "the journal has not all records")
    return journal(miner)[before:]
