"""One audit a place, whoever sends what how often."""

from __future__ import annotations

import numpy as np
import pytest

from stage1.monitor.sites import DAY_S, Sight, SiteBook

RNG = np.random.default_rng(0)
NOON = 1_800_000_000.0


def pictures(number: int) -> list[int]:
    return [int(value) for value in RNG.integers(0, 2**64, number, dtype=np.uint64)]


def test_one_picture_is_one_place_whoever_sends_it() -> None:
    book, [picture] = SiteBook(), pictures(1)
    visits = [
        book.visit(Sight(NOON + 700 * i, f"sender {i}", picture ^ (1 << (i % 60))), exits=True) for i in range(100)
    ]
    assert [visit.first_exit for visit in visits] == [True] + [False] * 99
    assert len({visit.site for visit in visits}) == 1


def test_one_sender_has_one_place_in_ten_minutes_where_no_position_is_known() -> None:
    book = SiteBook()
    visits = [book.visit(Sight(NOON + i, "sender", picture), exits=True) for i, picture in enumerate(pictures(1000))]
    assert sum(visit.first_exit for visit in visits) == 2, "1,000 seconds from a full ten minutes on"
    others = [book.visit(Sight(NOON, f"other {i}", picture), exits=True) for i, picture in enumerate(pictures(5))]
    assert all(visit.first_exit for visit in others)


def test_a_position_is_a_place_for_a_day() -> None:
    book, few = SiteBook(), pictures(4)
    here, there = (48.20801, 16.37381), (48.30801, 16.37381)
    first, again, elsewhere, tomorrow = (
        book.visit(Sight(at, "sender", picture, position), exits=True)
        for at, picture, position in zip(
            (NOON, NOON + 60, NOON + 61, NOON + DAY_S), few, (here, here, there, here), strict=True
        )
    )
    assert (first.first_exit, again.first_exit, elsewhere.first_exit, tomorrow.first_exit) == (True, False, True, True)
    assert again.site == first.site


def test_a_known_picture_at_a_new_position_is_no_new_place() -> None:
    book, [picture] = SiteBook(), pictures(1)
    assert book.visit(Sight(NOON, "a", picture, (1.0, 1.0)), exits=True).first_exit
    assert not book.visit(Sight(NOON, "b", picture, (2.0, 2.0)), exits=True).first_exit


def test_a_picture_is_forgotten_after_a_day() -> None:
    book, [picture] = SiteBook(), pictures(1)
    assert book.visit(Sight(NOON, "a", picture), exits=True).first_exit
    assert not book.visit(Sight(NOON + DAY_S - 1, "b", picture), exits=True).first_exit
    assert book.visit(Sight(NOON + 3 * DAY_S, "c", picture), exits=True).first_exit


def test_a_place_whose_first_picture_was_deferred_has_its_first_exit_yet() -> None:
    book, [picture] = SiteBook(), pictures(1)
    deferred = book.visit(Sight(NOON, "a", picture), exits=False)
    exits = book.visit(Sight(NOON, "a", picture), exits=True)
    assert (deferred.first, deferred.first_exit) == (True, False)
    assert (exits.first, exits.first_exit) == (False, True)


def test_a_blank_picture_is_of_its_sender() -> None:
    book = SiteBook()
    assert book.visit(Sight(NOON, "a"), exits=True).first_exit
    assert not book.visit(Sight(NOON + 1, "a"), exits=True).first_exit
    assert book.visit(Sight(NOON + 1, "b"), exits=True).first_exit


@pytest.mark.parametrize("most", [64, 20_000])
def test_a_book_goes_on_where_another_was(most: int) -> None:
    sights = [
        Sight(NOON + 40 * i, f"sender {i % 7}", picture if i % 3 else pictures(1)[0])
        for i, picture in enumerate(pictures(10) * 30)
    ]
    whole, half = SiteBook(most), SiteBook(most)
    expected = [whole.visit(sight, exits=True) for sight in sights]
    found = [half.visit(sight, exits=True) for sight in sights[:150]]
    half = SiteBook.restored(type(half.state).model_validate_json(half.state.model_dump_json()), most)
    assert found + [half.visit(sight, exits=True) for sight in sights[150:]] == expected
    assert half.state == whole.state


def test_it_remembers_so_many_pictures_and_no_more() -> None:
    book = SiteBook(most=100)
    for i, picture in enumerate(pictures(1000)):
        book.visit(Sight(NOON + i, f"sender {i}", picture), exits=True)
    state = book.state
    assert (len(state.pictures), len(state.names), len(state.exited)) == (100, 100, 100)
