"""Any arrivals, deadlines and priorities, against rules that are stated here once more."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import QueueFull
from engines.live.batch_queue import BatchQueue, Turn, Waiting
from engines.live.settings import BatchSettings

Image = Waiting[int]


@st.composite
def arrivals(draw: st.DrawFn, most: int = 40) -> list[Image]:
    """Images in the order in which they come, on a grid of milliseconds."""
    count = draw(st.integers(1, most))
    gaps = draw(st.lists(st.integers(0, 12), min_size=count, max_size=count))
    arrived, version, found = 0, 1, []
    for number, gap in enumerate(gaps):
        arrived += gap
        version += draw(st.integers(0, 9)) == 0
        patience = draw(st.one_of(st.integers(0, 60), st.just(10_000)))
        priority = draw(st.sampled_from([0.0, 0.0, 0.5, 1.0]))
        found.append(Waiting(number, version, arrived / 1e3, (arrived + patience) / 1e3, priority))
    return found


@dataclass
class Ran:
    """A batch as it was computed.

    Attributes:
        at: when it started.
        images: in their order.
        others: what waited then and was not taken.
        running: batches that ran already.
    """

    at: float
    images: list[Image]
    others: list[Image]
    running: int


@dataclass
class Simulation:
    """A queue and its workers in simulated time."""

    settings: BatchSettings
    seconds: float
    images: list[Image]
    ran: list[Ran] = field(default_factory=list)
    expired: dict[int, float] = field(default_factory=dict)

    def run(self) -> Self:
        queue: BatchQueue[int] = BatchQueue(self.settings)
        waiting: dict[int, Image] = {}
        coming, free_at = list(self.images), list[float]()
        now, wake = 0.0, None
        while coming or waiting or free_at:
            times = [coming[0].arrived] if coming else []
            times += free_at[:1] if wake is None or not waiting else [*free_at[:1], wake]
            now = max(now, min(times))
            while free_at and free_at[0] <= now:
                heapq.heappop(free_at)
            while coming and coming[0].arrived <= now:
                image = coming.pop(0)
                queue.put(image)
                waiting[image.item] = image
            wake = self._serve(queue, waiting, free_at, now)
            assert len(queue) == len(waiting)
            assert wake is None or wake > now
        return self

    def _serve(
        self, queue: BatchQueue[int], waiting: dict[int, Image], free_at: list[float], now: float
    ) -> float | None:
        while len(free_at) < self.settings.workers:
            turn: Turn[int] = queue.take(now, running=len(free_at))
            for late in turn.expired:
                self.expired[late.item] = now
                del waiting[late.item]
            if not turn.batch:
                return turn.look_again
            for image in turn.batch:
                del waiting[image.item]
            self.ran.append(Ran(now, turn.batch, list(waiting.values()), len(free_at)))
            heapq.heappush(free_at, now + self.seconds)
        return None


SETTINGS = st.builds(
    BatchSettings,
    max_batch=st.integers(1, 8),
    max_delay_s=st.sampled_from([0.0, 0.002, 0.02]),
    workers=st.integers(1, 3),
    head_start_s=st.sampled_from([0.0, 0.05]),
)
SECONDS = st.sampled_from([0.001, 0.01, 0.05])
SIMULATIONS = st.builds(Simulation, SETTINGS, SECONDS, arrivals()).map(Simulation.run)


def turn_of(image: Image, settings: BatchSettings) -> float:
    """When an image counts as having come."""
    return image.arrived - image.priority * settings.head_start_s


@given(SIMULATIONS)
def test_each_image_ends_once_computed_in_time_or_expired(simulation: Simulation) -> None:
    computed = [image.item for ran in simulation.ran for image in ran.images]
    assert sorted([*computed, *simulation.expired]) == [image.item for image in simulation.images]
    assert all(ran.at < image.deadline for ran in simulation.ran for image in ran.images)
    assert all(simulation.images[number].deadline <= at for number, at in simulation.expired.items())


@given(SIMULATIONS)
def test_a_batch_is_of_one_version_and_no_larger_than_it_may_be(simulation: Simulation) -> None:
    for ran in simulation.ran:
        assert 1 <= len(ran.images) <= simulation.settings.max_batch
        assert len({image.version for image in ran.images}) == 1


@given(SIMULATIONS)
def test_nothing_waits_where_nothing_runs(simulation: Simulation) -> None:
    """With a free worker an image waits only beside a running batch, for company, and no longer than the delay."""
    for ran in simulation.ran:
        if not ran.running:
            continue
        oldest = min(image.arrived for image in [*ran.images, *ran.others] if image.version == ran.images[0].version)
        assert len(ran.images) == simulation.settings.max_batch or ran.at >= oldest + simulation.settings.max_delay_s
    if simulation.settings.workers > len(simulation.images):
        for ran in simulation.ran:
            assert all(ran.at - image.arrived <= simulation.settings.max_delay_s + 1e-9 for image in ran.images)


@given(SIMULATIONS)
def test_first_come_first_served_with_a_head_start_by_priority(simulation: Simulation) -> None:
    for ran in simulation.ran:
        turns = [turn_of(image, simulation.settings) for image in ran.images]
        assert turns == sorted(turns)
        rivals = [turn_of(image, simulation.settings) for image in ran.others if image.version == ran.images[0].version]
        assert all(turns[-1] <= rival for rival in rivals)
        assert all(turns[0] <= turn_of(image, simulation.settings) for image in ran.others)


@given(SIMULATIONS)
def test_low_priority_is_never_overtaken_by_what_comes_much_later(simulation: Simulation) -> None:
    for ran in simulation.ran:
        for left in ran.others:
            assert all(
                image.arrived <= left.arrived + simulation.settings.head_start_s + 1e-9 for image in ran.images[:1]
            )


def test_a_full_queue_refuses() -> None:
    queue: BatchQueue[int] = BatchQueue(BatchSettings(capacity=2))
    for number in range(2):
        queue.put(Waiting(number, 1, 0.0, 9.0))
    with pytest.raises(QueueFull, match="2 images are waiting"):
        queue.put(Waiting(2, 1, 0.0, 9.0))
    assert [waiting.item for waiting in queue.take(0.0, running=0).batch] == [0, 1]
    queue.put(Waiting(2, 1, 0.0, 9.0))


def test_what_comes_at_once_keeps_its_order() -> None:
    queue: BatchQueue[str] = BatchQueue(BatchSettings(max_batch=3))
    for name in ("a", "b", "c", "d"):
        queue.put(Waiting(name, 1, 1.0, 9.0))
    assert [waiting.item for waiting in queue.take(1.0, running=0).batch] == ["a", "b", "c"]


def test_an_empty_queue_has_nothing_to_look_for() -> None:
    assert BatchQueue(BatchSettings()).take(0.0, running=0) == Turn()
