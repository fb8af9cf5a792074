from __future__ import annotations

from itertools import count

import pytest

from engines.live.states import NEXT, REFUSABLE, Lifecycle, State

TO_SERVING = (State.VERIFYING, State.LOADING, State.WARMING, State.GATING, State.READY, State.ACTIVE)


def life() -> Lifecycle:
    seconds = count()
    return Lifecycle("b", lambda: float(next(seconds)))


def test_from_staged_to_gone_with_the_time_in_each_state() -> None:
    bundle = life()
    for state in (*TO_SERVING, State.STANDBY, State.ACTIVE, State.DRAINING, State.UNLOADED):
        bundle.to(state)
    assert bundle.state is State.UNLOADED
    assert bundle.seconds()["warming"] == 1.0
    assert "unloaded" not in bundle.seconds()


def test_another_way_to_an_engine_can_be_tried_until_one_is_ready() -> None:
    bundle = life()
    stood_in = (State.VERIFYING, State.LOADING, State.WARMING, State.GATING)
    for state in (*stood_in, State.BUILDING, State.TRYING, *TO_SERVING[1:]):
        bundle.to(state)
    assert bundle.seconds()["loading"] == 2.0
    with pytest.raises(ValueError, match="cannot go from active to building"):
        bundle.to(State.BUILDING)


@pytest.mark.parametrize("state", sorted(REFUSABLE))
def test_what_does_not_serve_yet_can_be_refused(state: State) -> None:
    bundle = life()
    for step in (*TO_SERVING[:1], State.BUILDING, State.TRYING, *TO_SERVING[1:]):
        if bundle.state is state:
            break
        bundle.to(step)
    bundle.refuse("no")
    assert (bundle.state, bundle.reason) == (State.REFUSED, "no")
    with pytest.raises(ValueError, match="cannot be refused"):
        bundle.refuse("again")


def test_what_serves_cannot_be_refused() -> None:
    bundle = life()
    for state in TO_SERVING:
        bundle.to(state)
    with pytest.raises(ValueError, match="it is active"):
        bundle.refuse("late")


def test_no_check_can_be_left_out() -> None:
    """The only way to serve leads through hashes, warm-up and the comparison with the golden outputs."""
    paths, found = [[State.STAGED]], []
    while paths:
        path = paths.pop()
        if path[-1] is State.ACTIVE:
            found.append(path)
            continue
        paths += [[*path, state] for state in NEXT[path[-1]] if state not in path]
    assert found
    for path in found:
        order = [state for state in path if state in TO_SERVING]
        assert order == list(TO_SERVING)
