"""Batch sizes: which one takes so many images, and what fills it up."""

from __future__ import annotations

import numpy as np
import pytest

from engines.batches import BUCKETS, bucket_of, filled_up


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (17, 32), (32, 32)])
def test_a_batch_gets_the_smallest_size_that_takes_it(count: int, size: int) -> None:
    assert bucket_of(count) == size


def test_the_sizes_may_be_others() -> None:
    assert [bucket_of(count, (3, 7)) for count in (1, 3, 4, 7)] == [3, 3, 7, 7]


def test_none_takes_more_than_the_largest() -> None:
    with pytest.raises(ValueError, match="a batch has 32 images at most, not 33"):
        bucket_of(BUCKETS[-1] + 1)


def test_what_fills_a_batch_up_is_black_and_the_images_stay_as_they_are() -> None:
    images = np.random.default_rng(0).integers(1, 256, (3, 3, 4, 5), np.uint8)
    filled = filled_up(images, 4)
    assert filled.shape == (4, 3, 4, 5)
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[:3], images)
    assert not filled[3].any()
    assert not np.shares_memory(filled, images)
