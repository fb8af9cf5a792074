"""A golden set holds as many images as its reader takes, whatever their shape."""

from __future__ import annotations

import pytest

from engines.batches import MOST
from engines.store.golden import MOST_OF_A_GOLDEN_SET, golden_count
from stage1.preprocess import MOST_PIXELS, Shape


@pytest.mark.parametrize("shape", [(16, 16), (224, 224), (448, 672), (2048, 2048), (1024, 4096)])
def test_as_many_as_are_wanted_or_fit_and_never_less_than_a_batch(shape: Shape) -> None:
    count = golden_count(shape, 64)
    assert MOST <= count <= 64
    assert 3 * shape[0] * shape[1] * count < MOST_OF_A_GOLDEN_SET
    assert shape[0] * shape[1] <= MOST_PIXELS
    assert count == 64 or 3 * shape[0] * shape[1] * (count + 2) > MOST_OF_A_GOLDEN_SET
