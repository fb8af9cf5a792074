"""The order in which a budget hands images on: by what the record of a server says that it gains."""

from __future__ import annotations

from collections.abc import Callable

from stage2_bridge.calibration.record import GainTable
from stage2_bridge.protection.budget.gain_order import GainOrder, UncertaintyOrder, latest_gains


class RecordedOrder:
    """By the gain table of a server where it has one that speaks of it, and else by how uncertain Stage-1 is.

    What the server is good at is its own, and so is the order. Which share of the hand-offs reaches a gain depends on
    the Stage-1 that hands on: the table knows it of the bundle that it was made with, and of another one the latest
    images say it.

    Args:
        table: the table at this moment; None without one.
        of_live: whether it was made with the bundle that is live.
    """

    def __init__(self, table: Callable[[], GainTable | None], of_live: Callable[[], bool] = lambda: True) -> None:
        self._table = table
        self._of_live = of_live
        self._otherwise: GainOrder = UncertaintyOrder()
        self._latest = latest_gains()

    def gain(self, p: float) -> float:
        """See `GainOrder.gain`."""
        # Asked in any case: it remembers the latest images, and a record may cease to speak of its server.
        uncertain = self._otherwise.gain(p)
        table = self._table()
        if table is None:
            return uncertain
        gain = table.gain(p)
        self._latest.add(gain)
        return gain

    def threshold(self, share: float) -> float:
        """See `GainOrder.threshold`."""
        table = self._table()
        if table is None:
            return self._otherwise.threshold(share)
        seen = None if self._of_live() or not 0 < share < 1 else self._latest.reached_by(share)
        return table.threshold(share) if seen is None else seen
