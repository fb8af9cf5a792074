"""Places for requests: nobody keeps more than its share from others who ask."""

from __future__ import annotations

from functools import partial

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
    other = Caller(places, "other", 0.01)
    silent, largest = Caller(places, "silent", 0.01), Caller(places, "largest", 1.0)
    assert all(silent.ask() for _ in range(128))
    assert all(other.ask() for _ in range(128))
    asked = [largest.ask(body_is_there=True) for _ in range(32)]
    assert all(asked)
    assert len(silent.lost) + len(other.lost) == 32
    assert len(places) == 256


def test_a_caller_has_half_of_all_places_at_most() -> None:
    """Requests whose bodies are there are not pushed out, so that one caller's must not take all places."""
    places = Places(32)
    many, other = Caller(places, "many", 1.0), Caller(places, "other", 0.0)
    assert [many.ask(body_is_there=True) is not None for _ in range(20)] == [True] * 16 + [False] * 4
    assert all(other.ask() for _ in range(16))


def test_a_request_whose_body_is_there_keeps_its_place() -> None:
    places = Places(2)
    one, two, largest = (Caller(places, name, 0.0) for name in ("one", "two", "largest"))
    largest.priority = 1.0
    first = one.ask()
    assert first is not None
    assert two.ask(body_is_there=True)
    first.reading = False
    assert largest.ask() is None
    assert one.lost == two.lost == []


def test_equals_share_evenly() -> None:
    places = Places(6)
    one, two, other = (Caller(places, name, 0.5) for name in ("one", "two", "other"))
    assert all(caller.ask() for _ in range(3) for caller in (one, two))
    assert [other.ask() is not None for _ in range(3)] == [True, True, False]
    assert (one.lost, two.lost) == ([1], [1])
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


def test_a_claim_gives_its_place_to_any_proved_caller_and_takes_none_from_one() -> None:
    places = Places(4)
    lost: list[str] = []
    claims = [Place(name, 0.0, partial(lost.append, name), proved=False) for name in ("claim 0", "claim 1", "claim 2")]
    poor = Caller(places, "poor", 0.0)
    assert poor.ask()
    assert all(places.take(claim) for claim in claims)
    # However much the others hold, a newcomer that is not proved may take a place from one like itself alone.
    assert not places.take(Place("address 9", 0.0, lambda: None, proved=False))
    assert poor.ask()
    assert (lost, poor.lost) == (["claim 0"], [])


def test_a_proved_claim_counts_for_its_caller() -> None:
    places = Places(16)
    caller = Caller(places, "caller", 0.0)
    assert all(caller.ask() for _ in range(7))
    first, second = (Place("address", 0.0, lambda: None, proved=False) for _ in range(2))
    assert all(places.take(claim) for claim in (first, second))
    assert places.hand_over(first, "caller", 0.5)
    assert (first.holder, first.priority, first.proved) == ("caller", 0.5, True)
    # It has eight, which is half of all.
    assert not places.hand_over(second, "caller", 0.5)
    for place in (first, second):
        places.free(place)
    assert len(places) == 7
    assert caller.ask()
