from __future__ import annotations

from stage2_bridge.protection.breaker import Breaker, Call, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(breaker: Breaker) -> Call:
    call = breaker.admit()
    assert call is not None
    return call


def note(breaker: Breaker, *, failed: bool | None, times: int = 1) -> None:
    for _ in range(times):
        breaker.note(admitted(breaker), failed=failed)


def stands(breaker: Breaker) -> State:
    return breaker.state


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    note(breaker, failed=True, times=20)
    return breaker


def test_few_failures_say_nothing() -> None:
    breaker = Breaker(Clock())
    note(breaker, failed=True, times=19)
    assert stands(breaker) is State.CLOSED
    assert breaker.admit() is not None


def test_it_opens_where_half_of_the_calls_fail() -> None:
    for failures, state in ((9, State.CLOSED), (10, State.OPEN)):
        breaker = Breaker(Clock())
        for number in range(20):
            note(breaker, failed=number >= 20 - failures)
        assert stands(breaker) is state


def test_what_is_long_ago_does_not_count() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    note(breaker, failed=True, times=19)
    clock.now += 10.1
    note(breaker, failed=True)
    assert stands(breaker) is State.CLOSED


def test_what_says_nothing_of_the_server_neither_opens_it_nor_hides_failures() -> None:
    breaker = Breaker(Clock())
    note(breaker, failed=None, times=100)
    note(breaker, failed=True, times=19)
    assert stands(breaker) is State.CLOSED
    note(breaker, failed=None, times=100)
    note(breaker, failed=True)
    assert stands(breaker) is State.OPEN


def test_one_request_tries_a_server_that_was_left_alone() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert breaker.admit() is None
    clock.now += 5.0
    assert stands(breaker) is State.HALF_OPEN
    assert breaker.admit() is not None
    assert breaker.admit() is None


def test_a_trial_that_answers_closes_it_and_one_that_fails_does_not() -> None:
    for failed, state in ((False, State.CLOSED), (True, State.OPEN)):
        clock = Clock()
        breaker = opened(clock)
        clock.now += 5.0
        note(breaker, failed=failed)
        assert stands(breaker) is state


def test_a_trial_that_says_nothing_leaves_its_place_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5.0
    note(breaker, failed=None)
    assert stands(breaker) is State.HALF_OPEN
    note(breaker, failed=False)
    assert stands(breaker) is State.CLOSED


def test_a_trial_that_takes_long_does_not_keep_it_open_for_ever() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5.0
    slow = admitted(breaker)
    clock.now += 5.0
    assert breaker.admit() is not None
    clock.now += 1.0
    breaker.note(slow, failed=False)
    assert stands(breaker) is State.CLOSED


def test_what_was_sent_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    late = [admitted(breaker) for _ in range(40)]
    note(breaker, failed=True, times=20)
    clock.now += 5.0
    trial = admitted(breaker)
    breaker.note(late[0], failed=False)
    assert stands(breaker) is State.HALF_OPEN
    breaker.note(late[1], failed=True)
    assert stands(breaker) is State.HALF_OPEN
    breaker.note(trial, failed=False)
    for call in late[2:]:
        breaker.note(call, failed=True)
    assert stands(breaker) is State.CLOSED
