"""A server asked about many images, each answer kept as it comes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from engines.errors import EngineError, RemoteError
from engines.store.stage2_scores import Score, ServerScores
from stage2_bridge.client import ImageRefused, Stage2Client, Stage2Error, TwoOrders

# Attempts for one image, with a longer pause before each.
ATTEMPTS, PAUSE_S = 3, 0.5
# Images without an answer one after another: the server is gone, and not the images to blame.
GIVE_UP = 10
# Of replies that blame the request.
REFUSED = frozenset({400, 413, 415, 422})

Load = Callable[[], bytes]
# The score, and how far it is from that of the other order.
_Answer = tuple[float, float | None]


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
    price: float | None = None,
    both_orders: int = 0,
    mean_of_orders: bool = False,
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
        price: of a call, to be kept with each answer; None if nobody named one.
        both_orders: the first so many images are asked about with the answers the other way round as well, where the
            question names them; such a call costs twice the price.
        mean_of_orders: whether the server answers by the mean of both orders.
        progress: called with images done and images in all.
        clock: seconds.
        pause_s: before the second attempt, twice that before the third, unless the server says how long it wants.

    Raises:
        Stage2Error: ten images one after another have no answer; what it said before that is kept.
    """
    found = Survey([""] * len(images))
    left: Iterator[int] = iter(range(len(images)))
    done, in_a_row = 0, 0
    under_way: set[str] = set()
    writing = asyncio.Lock()

    async def one(place: int) -> None:
        nonlocal done, in_a_row
        content = await asyncio.to_thread(images[place])
        image = found.images[place] = hashlib.sha256(content).hexdigest()
        if image not in kept.scores and image not in under_way:
            under_way.add(image)
            try:
                ask = partial(_both if place < both_orders else _one_order, client, mean=mean_of_orders)
                score = await _asked(ask, image, content, timeout_s, clock, pause_s)
            except (EngineError, Stage2Error) as error:
                found.failed[image] = str(error)
                in_a_row += 1
            else:
                found.asked += 1
                in_a_row = 0
                async with writing:
                    await asyncio.to_thread(kept.keep, [_priced(score, price, mean=mean_of_orders)])
        done += 1
        progress(done, len(images))

    async def worker() -> None:
        for place in left:
            await one(place)
            # The others end what they have begun, so that no answer is lost that may have been paid for.
            if in_a_row >= GIVE_UP:
                return

    workers = [asyncio.create_task(worker()) for _ in range(min(at_a_time, len(images)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if in_a_row >= GIVE_UP:
        *_, told = found.failed.values()
        raise Stage2Error(
            f"{client.name} had no answer to {GIVE_UP} images one after another, to the last because: {told}; what it "
            "said before is kept: see `cascade stage2 check`, and run this again"
        )
    return found


async def _one_order(client: Stage2Client, content: bytes, timeout_s: float, *, mean: bool) -> _Answer:  # noqa: ARG001
    return float(await client.ask(content, timeout_s)), None


async def _both(client: Stage2Client, content: bytes, timeout_s: float, *, mean: bool) -> _Answer:
    both = await client.ask_in_both_orders(content, timeout_s) if isinstance(client, TwoOrders) else None
    if both is None:
        return await _one_order(client, content, timeout_s, mean=mean)
    return sum(both) / 2 if mean else both[0], abs(both[0] - both[1])


def _priced(score: Score, price: float | None, *, mean: bool) -> Score:
    calls = 2 if mean or score.order_gap is not None else 1
    return score.model_copy(update={"cost": None if price is None else price * calls})


async def _asked(
    ask: Callable[[bytes, float], Awaitable[_Answer]],
    image: str,
    content: bytes,
    timeout_s: float,
    clock: Callable[[], float],
    pause_s: float,
) -> Score:
    failure: EngineError | Stage2Error = Stage2Error("not asked")
    for attempt in range(ATTEMPTS):
        began = clock()
        try:
            async with asyncio.timeout(timeout_s):
                score, gap = await ask(content, timeout_s)
        except ImageRefused as error:
            return Score(image=image, score=None, ms=(clock() - began) * 1e3, reason=str(error))
        except TimeoutError:
            failure = Stage2Error(f"no answer within {timeout_s:g} s")
        except RemoteError as error:
            if error.status in REFUSED:
                return Score(image=image, score=None, ms=(clock() - began) * 1e3, reason=str(error))
            failure = error
        except (EngineError, Stage2Error) as error:
            failure = error
        else:
            return Score(image=image, score=score, order_gap=gap, ms=(clock() - began) * 1e3)
        if attempt + 1 < ATTEMPTS:
            told = failure.retry_after_s if isinstance(failure, RemoteError) else None
            await asyncio.sleep(pause_s * (attempt + 1) if told is None else told)
    raise failure
