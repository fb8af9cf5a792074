from __future__ import annotations

from stage2_bridge.protection.breaker import Breaker, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(20):
        assert breaker.admits()
        breaker.note(failed=True)
    return breaker


def test_few_failures_say_nothing() -> None:
    breaker = Breaker(Clock())
    for _ in range(19):
        breaker.note(failed=True)
    assert breaker.state is State.CLOSED
    assert breaker.admits()


def test_it_opens_where_half_of_the_calls_fail() -> None:
    for failures, state in ((9, State.CLOSED), (10, State.OPEN)):
        breaker = Breaker(Clock())
        for number in range(20):
            breaker.note(failed=number >= 20 - failures)
        assert breaker.state is state


def test_what_is_long_ago_does_not_count() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(19):
        breaker.note(failed=True)
    clock.now += 10.1
    breaker.note(failed=True)
    assert breaker.state is State.CLOSED


def test_one_request_tries_a_server_that_was_left_alone() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.admits()
    clock.now += 5.0
    assert breaker.state is State.HALF_OPEN
    assert [breaker.admits(), breaker.admits()] == [True, False]


def test_a_trial_that_answers_closes_it_and_one_that_fails_does_not() -> None:
    for failed, state in ((False, State.CLOSED), (True, State.OPEN)):
        clock = Clock()
        breaker = opened(clock)
        clock.now += 5.0
        assert breaker.admits()
        breaker.note(failed=failed)
        assert breaker.state is state


def test_a_trial_that_never_reports_does_not_keep_it_open_for_ever() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5.0
    assert breaker.admits()
    clock.now += 5.0
    assert breaker.admits()


def test_what_was_sent_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 4.0
    breaker.note(failed=False)
    breaker.note(failed=True)
    clock.now += 1.0
    assert breaker.state is State.HALF_OPEN
