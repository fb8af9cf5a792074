"""A rate in a cell of a table."""

from __future__ import annotations

from stage1.certificate.risks import Rate
from stage1.certificate.statistics.percent import at_least, at_most


def rate_cell(rate: Rate, *, lower: bool = False) -> str:
    """The rate above its counts and a bound, as HTML.

    Args:
        rate: what was counted.
        lower: show the lower bound, and not the upper one.
    """
    if rate.estimate is None:
        return "<small>no trials</small>"
    limit = f"&ge; {at_least(rate.lower)}" if lower else f"&le; {at_most(rate.upper)}"
    return f"{rate.estimate:.2%}<small>{rate.events} / {rate.trials}</small><small>{limit}</small>"
