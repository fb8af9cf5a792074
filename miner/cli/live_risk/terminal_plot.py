"""A curve in the terminal, of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = " ▁▂▃▄▅▆▇█"


def curve(
    title: str, values: Sequence[float | None], *, width: int = 72, height: int = 4, mark: float = math.nan
) -> str:
    """Values from left to right, the largest of those that share a column, above a line that names the ends.

    Args:
        title: above it.
        values: in order; None and what is not finite is left out.
        width: columns at most.
        height: lines.
        mark: a value that the axis reaches, such as a limit.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return f"{title}: nothing yet"
    low, high = min(0.0, *known), max([*known, *([mark] if math.isfinite(mark) else [])])
    span = high - low or 1.0
    columns = [_most(part) for part in _parts(list(values), width)]
    eighths = [None if value is None else round((value - low) / span * height * 8) for value in columns]
    lines = []
    for line in reversed(range(height)):
        cells = "".join(" " if eighth is None else BLOCKS[min(8, max(0, eighth - 8 * line))] for eighth in eighths)
        label = f"{high:.4g}" if line == height - 1 else f"{low:.4g}" if line == 0 else ""
        lines.append(f"{label:>9} |{cells}")
    limit = f", the limit is {mark:.4g}" if math.isfinite(mark) else ""
    return "\n".join([f"{title} (last {known[-1]:.4g}{limit})", *lines])


def _parts(values: list[float | None], width: int) -> list[list[float | None]]:
    count = min(width, len(values))
    edges = [round(len(values) * place / count) for place in range(count + 1)]
    return [values[begin:end] for begin, end in pairwise(edges)]


def _most(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return max(known) if known else None
