"""Pictures that a made Stage-1 exits or defers, and what becomes of those that a miner is asked about."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.made_bundles import SIZE_PX, linear, publish
from benchmarks.serving.callers import body_of
from benchmarks.serving.client import Reply, closed_loop, open_loop
from benchmarks.serving.miner import UNLIMITED, WRITE_S, Home, Miner, text_of, wait_until

# The made engine takes the one for roadwork and says nothing of the other.
YELLOW, GREY = (235, 200, 20), (20, 20, 20)
CLIENTS = 8


def pictures(colour: tuple[int, int, int], count: int, seed: int = 0) -> list[bytes]:
    """Different JPEGs of nearly one colour."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        pixels = np.array(colour, np.int16) + rng.integers(-12, 13, (SIZE_PX, SIZE_PX, 3))
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
        records: of the journal, one for each.
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


def requests(home: Home, images: Sequence[bytes]) -> list[bytes]:
    [caller] = home.callers
    return [caller.request(body_of(text_of(one))) for one in images]


def ask(home: Home, miner: Miner, images: Sequence[bytes], clients: int = CLIENTS) -> Asked:
    """Ask about each, so many at a time."""
    before = len(journal(miner))
    replies = asyncio.run(closed_loop(miner.port, requests(home, images), clients))
    return Asked(replies, written(miner, before, len(images)))


def ask_both(home: Home, miner: Miner, exits: Sequence[bytes], deferred: Sequence[bytes], per_s: float) -> Asked:
    """Ask about the first, a few at a time, while the second come at a rate; their replies are the last."""
    before = len(journal(miner))

    async def run() -> tuple[list[Reply], list[Reply]]:
        first, second = requests(home, exits), requests(home, deferred)
        return await asyncio.gather(closed_loop(miner.port, first, 4), open_loop(miner.port, second, per_s))

    of_exits, of_deferred = asyncio.run(run())
    return Asked([*of_exits, *of_deferred], written(miner, before, len(exits) + len(deferred)))


def journal(miner: Miner) -> list[dict[str, Any]]:
    path = miner.state / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def written(miner: Miner, before: int, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(journal(miner)) >= before + count, WRITE_S, "the journal has not all records")
    return journal(miner)[before:]
