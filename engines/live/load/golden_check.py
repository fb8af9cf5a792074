"""Comparing an engine with the golden outputs of its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.batches import MOST, in_batches
from engines.engine import Engine
from engines.errors import ParityError
from engines.store.golden import read_golden
from stage1.outputs import Stage1Outputs


def drift(actual: Stage1Outputs, expected: Stage1Outputs) -> list[float]:
    """Largest difference of each output.

    Raises:
        ParityError: the outputs are not of the same kind.
    """
    if actual.heads.keys() != expected.heads.keys():
        raise ParityError(
            f"the engine has heads {sorted(actual.heads)}, the golden outputs have {sorted(expected.heads)}"
        )
    pairs = [(actual.logits, expected.logits), (actual.select_score, expected.select_score)]
    pairs += [(actual.heads[name], expected.heads[name]) for name in expected.heads]
    if any(a.shape != b.shape for a, b in pairs):
        raise ParityError("the engine has other numbers of classes than the golden outputs")
    return [float(np.abs(a - b).max()) for a, b in pairs]


def check_parity(
    engine: Engine,
    golden: Path,
    tolerance: float,
    *,
    sizes: Sequence[int] = (1, MOST),
    spot: bool = False,
) -> float:
    """Compare an engine with the golden outputs, at every batch size: a miscompiled kernel may be wrong at one alone.

    Within the tolerance, every image that lies farther than that from the thresholds is decided as it was. One that
    lies nearer may be decided otherwise by another machine, and says nothing against it.

    Args:
        engine: to be checked.
        golden: from `write_golden`.
        tolerance: largest difference of any output that is accepted.
        sizes: batch sizes in ascending order. All golden images are run at the first and the last of them, as many as
            fill one batch at the others.
        spot: as many as fill one batch at every size.

    Returns:
        The largest difference of any output.

    Raises:
        ParityError: a difference above `tolerance`.
    """
    images, expected = read_golden(golden)
    worst = 0.0
    for size in sizes:
        count = size if spot or size not in {sizes[0], sizes[-1]} else len(images)
        actual = in_batches(engine, images[:count], size)
        stored = expected.rows(slice(0, len(actual)))
        worst = max(worst, *drift(actual, stored))
        if worst > tolerance:
            raise ParityError(
                f"at batch size {size}, outputs differ from the golden ones by {worst:.2g}, more than {tolerance:.2g}"
            )
    return worst
