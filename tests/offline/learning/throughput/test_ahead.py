"""Batches that are drawn ahead are those that would have been drawn, and nobody knows of those that were not used."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import Tensor

from offline.learning.throughput.ahead import DEPTH, ahead, drawn_ahead

BATCHES = [np.arange(n, n + 3) for n in range(0, 24, 3)]


class Draws:
    """Draws numbers, as an augmentation does, and counts."""

    def __init__(self) -> None:
        self.batches, self.threads = 0, set[int]()

    def draw(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        self.batches += 1
        self.threads.add(threading.get_ident())
        return torch.rand((len(rows), 2), generator=generator) + torch.from_numpy(rows)[:, None]


def test_the_same_numbers_come_in_the_same_order_and_the_generator_stands_where_it_would() -> None:
    plain, beside = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    source = Draws()
    with closing(drawn_ahead(Draws(), BATCHES, beside)) as drawn:
        for expected, (rows, batch) in zip(BATCHES, drawn, strict=True):
            assert np.array_equal(rows, expected)
            assert torch.equal(batch, source.draw(expected, plain))
            assert torch.equal(beside.get_state(), plain.get_state())


def test_a_loop_that_stops_and_goes_on_draws_what_it_would_have_drawn() -> None:
    whole = list(drawn_ahead(Draws(), BATCHES, torch.Generator().manual_seed(5)))
    generator, source = torch.Generator().manual_seed(5), Draws()
    with closing(drawn_ahead(source, BATCHES, generator)) as drawn:
        found = [next(drawn) for _ in range(3)]
    assert source.batches <= 3 + DEPTH + 1
    again = torch.Generator()
    again.set_state(generator.get_state())
    found += drawn_ahead(Draws(), BATCHES[3:], again)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole, found, strict=True))


def test_drawing_is_done_in_one_other_thread_no_further_ahead_than_told() -> None:
    source, started = Draws(), list[int]()

    def make(n: int) -> int:
        started.append(n)
        return n

    made = ahead(make, range(20), depth=2)
    assert [next(made) for _ in range(4)] == [0, 1, 2, 3]
    made.close()
    assert max(started) <= 3 + 2
    list(drawn_ahead(source, BATCHES, torch.Generator()))
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_what_goes_wrong_beside_the_loop_is_raised_in_it_in_its_place() -> None:
    def make(n: int) -> int:
        if n == 3:
            raise ValueError("the third is broken")
        return n

    made = ahead(make, range(6))
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="third"):
        next(made)


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with closing(ahead(lambda n: n, range(100))) as made:
        next(made)
    # Threads of other tests may end meanwhile.
    assert set(threading.enumerate()) <= before
