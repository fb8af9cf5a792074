"""What an answer of Stage-2 is worth, so that a budget is spent where it is worth the most."""

from __future__ import annotations

from typing import Protocol

from stage2_bridge.protection.latest_values import LatestValues

KEPT, FEWEST = 1024, 32


class GainOrder(Protocol):
    """Orders images by the accuracy that handing them on is expected to gain."""

    def gain(self, p: float) -> float:
        """Expected gain in accuracy of handing on an image.

        Args:
            p: Stage-1's calibrated probability of roadwork, in [0, 1].
        """
        ...

    def threshold(self, share: float) -> float:
        """The gain above which a share of the hand-offs lies.

        Args:
            share: in [0, 1].
        """
        ...


def latest_gains() -> LatestValues:
    """Gains of the latest images, by which a share of them is told from the others."""
    return LatestValues(KEPT, FEWEST)


class UncertaintyOrder:
    """Takes for the gain how likely Stage-1's own answer is wrong, min(p, 1 - p): what a perfect Stage-2 would gain.

    The threshold is that of the latest images.
    """

    def __init__(self) -> None:
        self._latest = latest_gains()

    def gain(self, p: float) -> float:
        """See `GainOrder.gain`; takes note of it."""
        gain = min(p, 1 - p)
        self._latest.add(gain)
        return gain

    def threshold(self, share: float) -> float:
        """See `GainOrder.threshold`; of few images, that of gains which are spread evenly."""
        if share >= 1:
            return 0.0
        found = self._latest.reached_by(share)
        return 0.5 * (1 - share) if found is None else found
