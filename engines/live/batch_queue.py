"""Which images form the next batch, and when: rules without threads or time of their own.

An image is taken at once where no batch is running. Where one is, a free worker waits until a batch is full or its
oldest image has waited long enough: while something runs, waiting a little for company costs less than a batch of one.
A batch never mixes versions of the engine, and an image whose deadline has passed is handed back uncomputed.

The order is that of virtual arrivals: an image of priority p counts as if it had come `p * head_start_s` earlier. So
one of high priority goes first, and none of low priority is overtaken by anything that comes later than that.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from engines.errors import QueueFull
from engines.live.settings import BatchSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Waiting(Generic[T]):
    """One image in the queue.

    Attributes:
        item: what is to be computed.
        version: of the engine; only images of one version share a batch.
        arrived: when it came, seconds.
        deadline: when nobody waits for it any more, on the same clock.
        priority: in [0, 1].
    """

    item: T
    version: int
    arrived: float
    deadline: float
    priority: float = 0.0


@dataclass(frozen=True)
class Turn(Generic[T]):
    """What a free worker is to do.

    Attributes:
        expired: images that were handed back because their deadline has passed.
        batch: images to compute together, those that come first in front.
        look_again: when to ask again if nothing comes in before, seconds; None if nothing waits.
    """

    expired: list[Waiting[T]] = field(default_factory=list)
    batch: list[Waiting[T]] = field(default_factory=list)
    look_again: float | None = None


class BatchQueue(Generic[T]):
    """A bounded queue that hands out batches; not safe to use from several threads at once.

    Args:
        settings: sizes and delays.
    """

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._waiting: list[tuple[float, int, Waiting[T]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, waiting: Waiting[T]) -> None:
        """Take an image in.

        Raises:
            QueueFull: as many wait as may.
        """
        if len(self._waiting) >= self._settings.capacity:
            raise QueueFull(f"{len(self._waiting)} images are waiting for Stage-1, which is all that may")
        key = waiting.arrived - waiting.priority * self._settings.head_start_s
        self._count += 1
        # The number keeps those that came at the same time in their order.
        bisect.insort(self._waiting, (key, self._count, waiting), key=lambda entry: entry[:2])

    def take(self, now: float, *, running: int) -> Turn[T]:
        """What a free worker is to do now.

        Args:
            now: the time, seconds.
            running: batches that are being computed.
        """
        expired = [entry for entry in self._waiting if entry[2].deadline <= now]
        if expired:
            self._waiting = [entry for entry in self._waiting if entry[2].deadline > now]
        late = [waiting for _, _, waiting in expired]
        if not self._waiting:
            return Turn(late)
        version = self._waiting[0][2].version
        same = [entry for entry in self._waiting if entry[2].version == version]
        due = min(waiting.arrived for _, _, waiting in same) + self._settings.max_delay_s
        if running and len(same) < self._settings.max_batch and now < due:
            return Turn(late, look_again=min(due, *(waiting.deadline for _, _, waiting in self._waiting)))
        chosen = same[: self._settings.max_batch]
        numbers = {number for _, number, _ in chosen}
        self._waiting = [entry for entry in self._waiting if entry[1] not in numbers]
        return Turn(late, [waiting for _, _, waiting in chosen])

    def clear(self) -> list[Waiting[T]]:
        """Hand back everything."""
        left = [waiting for _, _, waiting in self._waiting]
        self._waiting = []
        return left
