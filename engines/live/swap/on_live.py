"""Who is told that a bundle is live."""

from __future__ import annotations

from typing import Protocol

from engines.live.load.load_bundle import LiveBundle


class OnLive(Protocol):
    """Is told that a bundle is live."""

    def __call__(self, bundle: LiveBundle, generation: int, *, known: bool) -> None:
        """Take note.

        Args:
            bundle: it.
            generation: of it.
            known: it is the first of the process, or has served before.
        """
        ...
