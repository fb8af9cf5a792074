"""What became of every bundle that was wanted in this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from engines.live.load.load_bundle import LiveBundle
from engines.live.states import Lifecycle, State

REMEMBERED = 32


class History:
    """The life cycles of bundles, and which of them each loaded bundle is in.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: deque[Lifecycle] = deque(maxlen=REMEMBERED)
        # By identity: a bundle can be wanted again while an earlier copy of it still drains.
        self._loaded: dict[int, Lifecycle] = {}

    @property
    def latest(self) -> tuple[Lifecycle, ...]:
        """The latest bundles that were wanted, newest last."""
        return tuple(self._latest)

    def wanted(self, bundle: str) -> Lifecycle:
        """Begin the life cycle of a bundle that somebody wants."""
        life = Lifecycle(bundle, self._clock)
        self._latest.append(life)
        return life

    def serves(self, bundle: LiveBundle, life: Lifecycle) -> None:
        """A loaded bundle is live."""
        life.to(State.ACTIVE)
        self._loaded[id(bundle)] = life

    def serves_again(self, bundle: LiveBundle) -> None:
        """A bundle that stood by is live."""
        self._loaded[id(bundle)].to(State.ACTIVE)

    def replaced(self, bundle: LiveBundle, *, stands_by: bool) -> None:
        """A bundle is live no more."""
        self._loaded[id(bundle)].to(State.STANDBY if stands_by else State.DRAINING)

    def gone(self, bundle: LiveBundle) -> None:
        """A bundle is not in this process any more."""
        life = self._loaded.pop(id(bundle), None)
        if life is not None:
            if life.state is not State.DRAINING:
                life.to(State.DRAINING)
            life.to(State.UNLOADED)
