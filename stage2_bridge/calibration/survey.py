"""A server asked about many images, each answer kept as it comes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from engines.errors import EngineError, RemoteError
from engines.store.stage2_scores import Score, ServerScores
from stage2_bridge.client import (
    REFUSED,
    ImageRefused,
    MeteredProbability,
    Stage2Client,
    Stage2Error,
    TwoOrders,
    mean_of,
)
from stage2_bridge.protection.budget.cost import Cost

# Attempts for one image, with a longer pause before each.
ATTEMPTS, PAUSE_S, LONGEST_PAUSE_S = 3, 0.5, 60.0
# Images without an answer one after another: the server is gone, and not the images to blame.
GIVE_UP = 10

Load = Callable[[], bytes]


class _Answer(NamedTuple):
    """A score, and how far it is from that of the other order."""

    score: float
    gap: float | None = None


@dataclass
class Survey:
    """What became of the images.

    Attributes:
        images: hash of the bytes that were sent for each, in order.
        asked: images that the server was asked about now; it was asked about the others before.
        failed: what went wrong with those that have no answer and may have one another time, by hash.
    """

    images: list[str]
    asked: int = 0
    failed: dict[str, str] = field(default_factory=dict)


async def survey(
    client: Stage2Client,
    images: Sequence[Load],
    kept: ServerScores,
    *,
    at_a_time: int,
    timeout_s: float,
    price: Cost | None = None,
    both_orders: int = 0,
    mean_of_orders: bool = False,
    wanted: Callable[[int], bool] = lambda _place: True,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
    pause_s: float = PAUSE_S,
) -> Survey:
    """Ask a server about images that it has not answered yet.

    Args:
        client: of the server.
        images: each reads one image; called in a thread.
        kept: what it said before, and where what it says now is written, answer by answer.
        at_a_time: images at a time.
        timeout_s: for each attempt.
        price: what a call costs, to be kept with each answer; answers that were kept without one get it now. None if
            nobody named one.
        both_orders: so many images are asked about with the answers the other way round as well, where the question
            names them.
        mean_of_orders: whether the server answers by the mean of both orders.
        wanted: whether the image at a place is to be asked about; the others are only known by their hash.
        progress: called with images done and images in all.
        clock: seconds.
        pause_s: before the second attempt, twice that before the third, unless the server says how long it wants.

    Raises:
        Stage2Error: ten images one after another have no answer; what it said before that is kept.
    """
    manner = _Manner(price, both_orders, timeout_s, pause_s, clock, wanted, mean=mean_of_orders)
    work = _Work(client, images, kept, manner, progress)
    await _all_of([work.some() for _ in range(min(at_a_time, len(images)))])
    if work.gone:
        *_, told = work.found.failed.values()
        raise Stage2Error(
            f"{client.name} had no answer to {GIVE_UP} images one after another, to the last because: {told}; what it "
            "said before is kept: see `cascade stage2 check`, and run this again"
        )
    return work.found


@dataclass(frozen=True)
class _Manner:
    """How an image is asked about; see `survey`."""

    price: Cost | None
    both_orders: int
    timeout_s: float
    pause_s: float
    clock: Callable[[], float]
    wanted: Callable[[int], bool]
    mean: bool


class _Work:
    """The images that are left, for several to take from; see `survey`."""

    def __init__(
        self,
        client: Stage2Client,
        images: Sequence[Load],
        kept: ServerScores,
        manner: _Manner,
        progress: Callable[[int, int], None],
    ) -> None:
        self.found = Survey([""] * len(images))
        self._client, self._images, self._kept, self._manner = client, images, kept, manner
        self._progress = progress
        self._left: Iterator[int] = iter(range(len(images)))
        self._done = self._in_a_row = 0
        self._under_way: set[str] = set()
        self._writing = asyncio.Lock()

    @property
    def gone(self) -> bool:
        """Whether the server has stopped answering."""
        return self._in_a_row >= GIVE_UP

    async def some(self) -> None:
        """Ask about one image after another while there are any, and the server answers."""
        for place in self._left:
            await self._one(place)
            # The others end what they have begun, so that no answer is lost that may have been paid for.
            if self.gone:
                return

    async def _one(self, place: int) -> None:
        content = await asyncio.to_thread(self._images[place])
        image = self.found.images[place] = hashlib.sha256(content).hexdigest()
        try:
            score = await self._score(place, image, content)
        except (EngineError, Stage2Error) as error:
            self.found.failed[image] = str(error)
            self._in_a_row += 1
        else:
            if score is not None:
                self._in_a_row = 0
                async with self._writing:
                    await asyncio.to_thread(self._kept.keep, [score])
        self._done += 1
        self._progress(self._done, len(self._images))

    async def _score(self, place: int, image: str, content: bytes) -> Score | None:
        """What is to be written down of an image; None for nothing."""
        price = self._manner.price
        if (known := self._kept.scores.get(image)) is not None:
            return (
                None if price is None or known.cost is not None else known.model_copy(update={"cost": price.of(None)})
            )
        if image in self._under_way or not self._manner.wanted(place):
            return None
        in_both = len(self._under_way) < self._manner.both_orders
        ask = partial(_both, self._client, mean=self._manner.mean) if in_both else partial(_one_order, self._client)
        self._under_way.add(image)
        score = await _asked(ask, image, content, self._manner)
        self.found.asked += 1
        return score


async def _all_of(workers: Sequence[Coroutine[None, None, None]]) -> None:
    """Run them to their end; if one fails, the others are given up before it is told."""
    tasks = [asyncio.create_task(worker) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _one_order(client: Stage2Client, content: bytes, timeout_s: float) -> _Answer:
    return _Answer(await client.ask(content, timeout_s))


async def _both(client: Stage2Client, content: bytes, timeout_s: float, *, mean: bool) -> _Answer:
    both = await client.ask_in_both_orders(content, timeout_s) if isinstance(client, TwoOrders) else None
    if both is None:
        return await _one_order(client, content, timeout_s)
    first, second = both
    return _Answer(mean_of(both) if mean else first, abs(first - second))


async def _asked(
    ask: Callable[[bytes, float], Awaitable[_Answer]], image: str, content: bytes, manner: _Manner
) -> Score:
    price, clock, timeout_s = manner.price, manner.clock, manner.timeout_s
    failure: EngineError | Stage2Error = Stage2Error("not asked")
    for attempt in range(ATTEMPTS):
        began = clock()
        try:
            async with asyncio.timeout(timeout_s):
                found = await ask(content, timeout_s)
        except ImageRefused as error:
            return _refused(image, error, (clock() - began) * 1e3, price)
        except TimeoutError:
            failure = Stage2Error(f"no answer within {timeout_s:g} s")
        except RemoteError as error:
            if error.status in REFUSED:
                return _refused(image, error, (clock() - began) * 1e3, price)
            failure = error
        except (EngineError, Stage2Error) as error:
            failure = error
        else:
            ms = (clock() - began) * 1e3
            tokens = found.score.tokens if isinstance(found.score, MeteredProbability) else None
            cost = None if price is None else price.of(tokens)
            return Score(image=image, score=float(found.score), order_gap=found.gap, ms=ms, cost=cost)
        if attempt + 1 < ATTEMPTS:
            told = failure.retry_after_s if isinstance(failure, RemoteError) else None
            await asyncio.sleep(manner.pause_s * (attempt + 1) if told is None else min(told, LONGEST_PAUSE_S))
    raise failure


def _refused(image: str, error: Exception, ms: float, price: Cost | None) -> Score:
    return Score(image=image, score=None, ms=ms, cost=None if price is None else price.of(None), reason=str(error))
