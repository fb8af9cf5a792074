"""Places for requests: nobody keeps more than its share from others who ask."""

from __future__ import annotations

from miner.axon.places import Place, Places


class Caller:
    """One hotkey, and which of its requests lost their place."""

    def __init__(self, places: Places, hotkey: str, priority: float) -> None:
        self.places, self.hotkey, self.priority = places, hotkey, priority
        self.lost: list[int] = []
        self.number = 0

    def ask(self, *, body_is_there: bool = False) -> Place | None:
        number = self.number = self.number + 1
        place = Place(self.hotkey, self.priority, lambda: self.lost.append(number), reading=not body_is_there)
        return place if self.places.take(place) else None


def test_the_highest_stake_gets_places_from_one_who_sends_no_bodies() -> None:
    places = Places(256)
    silent, largest = Caller(places, "silent", 0.01), Caller(places, "largest", 1.0)
    assert all(silent.ask() for _ in range(256))
    asked = [largest.ask(body_is_there=True) for _ in range(32)]
    assert all(asked)
    assert silent.lost == list(range(1, 33))
    assert len(places) == 256


def test_a_caller_alone_may_have_all_places() -> None:
    places = Places(8)
    alone = Caller(places, "a", 0.0)
    assert all(alone.ask(body_is_there=True) for _ in range(8))
    assert alone.ask() is None


def test_a_request_whose_body_is_there_keeps_its_place() -> None:
    places = Places(2)
    one, other = Caller(places, "one", 0.0), Caller(places, "other", 1.0)
    first = one.ask()
    assert first is not None
    assert one.ask(body_is_there=True)
    first.reading = False
    assert other.ask() is None
    assert one.lost == []


def test_equals_share_evenly() -> None:
    places = Places(4)
    one, other = Caller(places, "one", 0.5), Caller(places, "other", 0.5)
    assert all(one.ask() for _ in range(4))
    assert [other.ask() is not None for _ in range(4)] == [True, True, False, False]
    assert one.lost == [1, 2]
    # And whoever lost places takes none back from one with as many.
    assert one.ask() is None


def test_a_place_that_was_given_up_is_free_once() -> None:
    places = Places(1)
    one, other = Caller(places, "one", 0.0), Caller(places, "other", 1.0)
    given_up, taken = one.ask(), other.ask()
    assert given_up is not None
    assert taken is not None
    places.free(given_up)
    assert len(places) == 1
    places.free(taken)
    assert len(places) == 0
    assert one.ask() is not None
