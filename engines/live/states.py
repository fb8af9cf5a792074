"""The states of a bundle in a running process, from the moment somebody wants it to the moment it is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise


class State(StrEnum):
    """Where a bundle is; each is entered from the one above it, but for the exceptions in `NEXT`."""

    STAGED = "staged"
    VERIFYING = "verifying"
    BUILDING = "building"
    TRYING = "trying"
    LOADING = "loading"
    WARMING = "warming"
    GATING = "gating"
    READY = "ready"
    ACTIVE = "active"
    STANDBY = "standby"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    REFUSED = "refused"


# A twin that does not take the weights, or a stand-in with other numbers, is not the end of it.
_ANOTHER_WAY = (State.BUILDING, State.TRYING, State.LOADING)
# Every state before READY may end in REFUSED, too.
NEXT: dict[State, frozenset[State]] = {
    State.STAGED: frozenset({State.VERIFYING}),
    State.VERIFYING: frozenset({State.BUILDING, State.TRYING, State.LOADING}),
    State.BUILDING: frozenset({State.TRYING, State.LOADING}),
    State.TRYING: frozenset({State.LOADING, State.BUILDING}),
    State.LOADING: frozenset({State.WARMING, *_ANOTHER_WAY}),
    State.WARMING: frozenset({State.GATING, *_ANOTHER_WAY}),
    State.GATING: frozenset({State.READY, *_ANOTHER_WAY}),
    State.READY: frozenset({State.ACTIVE, State.UNLOADED}),
    State.ACTIVE: frozenset({State.STANDBY, State.DRAINING}),
    State.STANDBY: frozenset({State.ACTIVE, State.DRAINING}),
    State.DRAINING: frozenset({State.UNLOADED}),
    State.UNLOADED: frozenset(),
    State.REFUSED: frozenset(),
}
REFUSABLE = frozenset({State.STAGED, State.VERIFYING, *_ANOTHER_WAY, State.WARMING, State.GATING})


@dataclass
class Lifecycle:
    """One time that a bundle was wanted, and what became of it.

    Attributes:
        bundle: id of the bundle.
        clock: monotonic time in seconds.
        steps: states and when they were entered, in order.
        reason: why it was refused, empty if it was not.
    """

    bundle: str
    clock: Callable[[], float]
    steps: list[tuple[State, float]] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        self.steps.append((State.STAGED, self.clock()))

    @property
    def state(self) -> State:
        """Where it is now."""
        return self.steps[-1][0]

    def to(self, state: State) -> None:
        """Go on.

        Raises:
            ValueError: this state does not follow the one it is in.
        """
        if state not in NEXT[self.state]:
            raise ValueError(f"bundle {self.bundle} cannot go from {self.state} to {state}")
        self.steps.append((state, self.clock()))

    def refuse(self, reason: str) -> None:
        """End it before it served.

        Raises:
            ValueError: it serves or has served.
        """
        if self.state not in REFUSABLE:
            raise ValueError(f"bundle {self.bundle} cannot be refused, it is {self.state}")
        self.reason = reason
        self.steps.append((State.REFUSED, self.clock()))

    def seconds(self) -> dict[str, float]:
        """How long it was in each state that it has left, all times together."""
        spent: defaultdict[str, float] = defaultdict(float)
        for (state, start), (_, end) in pairwise(self.steps):
            spent[str(state)] += end - start
        return {state: round(seconds, 3) for state, seconds in spent.items()}
