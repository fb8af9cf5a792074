"""Places of connections: whoever holds many and says nothing shuts out himself alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.axon.connections import ConnectionTable, network_of


@dataclass(eq=False)
class Held:
    address: str
    evicted: bool = False

    def evict(self) -> None:
        self.evicted = True


def admitted(table: ConnectionTable, address: str, times: int = 1) -> list[Held]:
    held = [Held(address) for _ in range(times)]
    assert all(table.admit(one) for one in held)
    return held


def proved(table: ConnectionTable, address: str, caller: str) -> Held:
    (one,) = admitted(table, address)
    table.prove(one, caller)
    return one


def test_one_address_gets_its_share_and_loses_the_connection_that_waits_longest() -> None:
    table = ConnectionTable(100, 3, 0)
    first, *others = admitted(table, "a", 4)
    assert first.evicted
    assert not any(one.evicted for one in others)
    assert len(table) == 3


def test_a_connection_with_a_request_is_not_closed_for_another() -> None:
    table = ConnectionTable(100, 2, 0)
    one, other = admitted(table, "a", 2)
    table.work(one)
    table.work(other)
    assert not table.admit(Held("a"))
    table.wait(other)
    assert table.admit(Held("a"))
    assert (one.evicted, other.evicted) == (False, True)


def test_strangers_leave_the_reserve_to_those_who_proved_a_caller() -> None:
    table = ConnectionTable(10, 10, 4)
    known = proved(table, "validator", "hotkey")
    strangers = [one for n in range(50) for one in admitted(table, f"stranger {n}")]
    assert sum(not one.evicted for one in strangers) == 6
    more = admitted(table, "validator", 3)
    assert len(table) == 10
    assert not any(one.evicted for one in (known, *more))


def test_a_proved_address_takes_the_place_of_a_stranger_who_waits() -> None:
    table = ConnectionTable(4, 10, 0)
    proved(table, "validator", "hotkey")
    strangers = admitted(table, "s", 3)
    admitted(table, "validator", 2)
    assert [one.evicted for one in strangers] == [True, True, False]
    table.work(strangers[2])
    assert not table.admit(Held("validator"))


def test_one_caller_with_many_addresses_does_not_shut_the_others_out() -> None:
    table = ConnectionTable(40, 10, 8)
    validator = proved(table, "validator", "validator")
    for number in range(4):
        for one in admitted(table, f"hostile {number}", 10):
            table.prove(one, "hostile")
    assert len(table) == 40
    more = admitted(table, "validator", 5)
    assert not any(one.evicted for one in (validator, *more))


def test_one_caller_does_not_make_the_others_forgotten() -> None:
    table = ConnectionTable(4, 4, 2)
    validator = proved(table, "validator", "validator")
    table.leave(validator)
    for number in range(2000):
        table.leave(proved(table, f"hostile {number}", "hostile"))
    for number in range(5):
        admitted(table, f"s{number}")
    assert len(table) == 2
    admitted(table, "validator", 2)


def test_of_one_address_the_connection_goes_that_was_used_longest_ago() -> None:
    table = ConnectionTable(10, 2, 0)
    first, second = admitted(table, "proxy", 2)
    table.work(first)
    table.wait(first)
    admitted(table, "proxy")
    assert (first.evicted, second.evicted) == (False, True)


def test_an_address_stays_proved_when_its_connection_closes() -> None:
    table = ConnectionTable(4, 4, 2)
    known = proved(table, "validator", "hotkey")
    table.leave(known)
    for number in range(5):
        admitted(table, f"s{number}")
    assert len(table) == 2
    admitted(table, "validator", 2)
    assert len(table) == 4


ACTS = st.lists(st.tuples(st.sampled_from("acwpl"), st.integers(0, 4), st.integers(0, 9)), max_size=60)


@given(ACTS, st.integers(1, 6), st.integers(1, 6), st.integers(0, 6))
def test_no_order_of_events_exceeds_a_limit_or_forgets_a_connection(
    acts: list[tuple[str, int, int]], most: int, most_of_one: int, reserve: int
) -> None:
    table = ConnectionTable(most, most_of_one, reserve)
    held: list[Held] = []
    for act, address, which in acts:
        alive = [one for one in held if not one.evicted]
        if act == "a":
            one = Held(str(address))
            if table.admit(one):
                held.append(one)
        elif alive:
            one = alive[which % len(alive)]
            {"c": table.work, "w": table.wait, "p": lambda one: table.prove(one, one.address), "l": table.leave}[act](
                one
            )
            if act == "l":
                held.remove(one)
        alive = [one for one in held if not one.evicted]
        assert len(table) == len(alive) <= most
        assert max((sum(one.address == other.address for other in alive) for one in alive), default=0) <= most_of_one


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1%eth0", "2001:db8::/64"),
        ("", ""),
        ("a socket", "a socket"),
    ],
)
def test_a_subscriber_is_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
