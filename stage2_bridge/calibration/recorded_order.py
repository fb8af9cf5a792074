"""The order in which a budget hands images on: by what the record of a server says that it gains."""

from __future__ import annotations

from collections.abc import Callable

from stage2_bridge.calibration.record import GainTable
from stage2_bridge.protection.budget.gain_order import GainOrder, UncertaintyOrder


class RecordedOrder:
    """By the gain table of a server where it has one that speaks of it, and else by how uncertain Stage-1 is.

    Args:
        table: the table at this moment; None without one.
    """

    def __init__(self, table: Callable[[], GainTable | None]) -> None:
        self._table = table
        self._otherwise: GainOrder = UncertaintyOrder()

    def gain(self, p: float) -> float:
        """See `GainOrder.gain`."""
        # Asked in any case: it remembers the latest images, and a record may cease to speak of its server.
        uncertain = self._otherwise.gain(p)
        table = self._table()
        return uncertain if table is None else table.gain(p)

    def threshold(self, share: float) -> float:
        """See `GainOrder.threshold`."""
        return (self._table() or self._otherwise).threshold(share)
