"""Comparing an engine with the golden outputs of its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.batches import MOST, in_batches
from engines.engine import Engine
from engines.errors import ParityError
from engines.spec import Precision
from engines.store.golden import read_golden
from stage1.outputs import Floats, Stage1Outputs
from stage1.preprocess import Pixels
from stage1.tolerance import TOLERANCE

# Largest difference of an output as a share of its range over the golden images. Measured: two engines in fp32 1e-5,
# products with a mantissa of ten bits 1e-3, weights rounded to bf16 0.02, a collapsed attention 0.08 and more.
SHARES: dict[Precision, float] = {"fp32": 5e-4, "bf16": 5e-2}
# The tolerance that a share goes with; a bundle that allows more has more of both.
USUAL: dict[Precision, float] = {"fp32": TOLERANCE, "bf16": 2e-2}
# Of the largest number, for images that are all alike: what fp32 itself cannot tell apart comes to a tenth of it.
LEAST_SHARE, LEAST = 1e-4, 1e-6


def drift(actual: Stage1Outputs, expected: Stage1Outputs) -> list[float]:
    """Largest difference of each output: logits, selection score, and the heads as `expected` has them.

    Raises:
        ParityError: the outputs are not of the same kind.
    """
    if actual.heads.keys() != expected.heads.keys():
        raise ParityError(
            f"the engine has heads {sorted(actual.heads)}, the golden outputs have {sorted(expected.heads)}"
        )
    named = {name: actual.heads[name] for name in expected.heads}
    pairs = list(zip([actual.logits, actual.select_score, *named.values()], _parts(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        raise ParityError("the engine has other numbers of classes than the golden outputs")
    return [float(np.abs(a - b).max()) for a, b in pairs]


def limits(expected: Stage1Outputs, tolerance: float, certified: Precision, serving: Precision) -> tuple[float, ...]:
    """Largest difference of each output that is accepted, in its own units, in the order of `drift`.

    A tolerance alone says nothing of a network whose outputs all lie within it: so it is also a share of the range that
    an output has over the images. The share is that of the precision that was certified, whatever serves: an engine
    that rounds more has no right to more. One that rounds by what is in an image, int8, has no share of its own; what
    serves its bundle in another precision is held to the share of that one.

    Args:
        expected: all the golden outputs.
        tolerance: largest difference of any output.
        certified: precision of the engine that returned them.
        serving: precision of the engine that is to serve.
    """
    precision = certified if certified in SHARES else serving
    share = SHARES.get(precision)
    if share is None:
        return tuple(tolerance for _ in _parts(expected))
    share *= max(1.0, tolerance / USUAL[precision])
    ranges = [(float(np.ptp(values)), float(np.abs(values).max())) for values in _parts(expected)]
    return tuple(min(tolerance, max(share * spread, LEAST_SHARE * largest, LEAST)) for spread, largest in ranges)


def check_outputs(actual: Stage1Outputs, expected: Stage1Outputs, most: Sequence[float]) -> float:
    """Largest difference of any output of some images.

    Args:
        actual: what an engine returned for them.
        expected: what it must return.
        most: from `limits`, of all the golden outputs.

    Raises:
        ParityError: an output differs by more, or by no number.
    """
    found = drift(actual, expected)
    for difference, limit in zip(found, most, strict=True):
        if not difference <= limit:
            raise ParityError(f"outputs differ from the golden ones by {difference:.2g}, more than {limit:.2g}")
    return max(found)


def compare(
    engine: Engine,
    images: Pixels,
    expected: Stage1Outputs,
    most: Sequence[float],
    *,
    sizes: Sequence[int],
    spot: bool = False,
) -> float:
    """Compare an engine with what it must return, at every batch size.

    Args:
        engine: to be checked.
        images: uint8 `(N, 3, H, W)`.
        expected: what it must return for them.
        most: largest difference of each output that is accepted, as of `limits`.
        sizes: as of `check_parity`.
        spot: as of `check_parity`.

    Returns:
        The largest difference of any output.

    Raises:
        ParityError: one is larger, or no number; names the batch size.
    """
    worst = 0.0
    for size in sizes:
        count = size if spot or size not in {sizes[0], sizes[-1]} else len(images)
        actual = in_batches(engine, images[:count], size)
        try:
            worst = max(worst, check_outputs(actual, expected.rows(slice(0, len(actual))), most))
        except ParityError as error:
            raise ParityError(f"at batch size {size}, {error}") from None
    return worst


def check_parity(
    engine: Engine,
    golden: Path,
    tolerance: float,
    *,
    precision: Precision,
    sizes: Sequence[int] = (1, MOST),
    spot: bool = False,
) -> float:
    """Compare an engine with the golden outputs, at every batch size: a miscompiled kernel may be wrong at one alone.

    Within the tolerance, every image that lies farther than that from the thresholds is decided as it was. One that
    lies nearer may be decided otherwise by another machine, and says nothing against it.

    Args:
        engine: to be checked, in the precision that it says of itself.
        golden: from `write_golden`.
        tolerance: largest difference of any output that is accepted; see `limits`.
        precision: of the engine that was certified, and returned the golden outputs.
        sizes: batch sizes in ascending order. All golden images are run at the first and the last of them, as many as
            fill one batch at the others.
        spot: as many as fill one batch at every size.

    Returns:
        The largest difference of any output.

    Raises:
        ParityError: a difference above that.
    """
    images, expected = read_golden(golden)
    most = limits(expected, tolerance, precision, engine.describe().spec.precision)
    return compare(engine, images, expected, most, sizes=sizes, spot=spot)


def _parts(outputs: Stage1Outputs) -> list[Floats]:
    return [outputs.logits, outputs.select_score, *outputs.heads.values()]
