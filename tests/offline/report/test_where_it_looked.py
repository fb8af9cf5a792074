"""Where the network looked, marked on the pictures of a report."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from offline.report.where_it_looked import look_at, looks_at, places_of_half


def grey(height: int = 64, width: int = 128) -> NDArray[np.uint8]:
    return np.full((3, height, width), 120, np.uint8)


def decoded(picture: bytes) -> NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(picture)), np.float64)


def test_the_place_that_carries_the_weight_is_bright_and_yellow() -> None:
    weights = np.zeros((4, 8))
    weights[1, 6] = 1.0
    marked = decoded(look_at(grey(), weights).picture)
    assert marked.shape == (64, 128, 3)
    here, elsewhere = marked[24, 104], marked[50, 20]
    assert here.sum() > 1.5 * elsewhere.sum()
    assert here[0] - here[2] > 30
    assert abs(elsewhere[0] - elsewhere[2]) < 10


def test_even_weights_mark_everything_alike() -> None:
    marked = decoded(look_at(grey(), np.full((4, 8), 1 / 32)).picture)
    assert marked.std((0, 1)).max() < 3


def test_a_large_picture_becomes_a_small_one_of_the_same_proportions() -> None:
    assert decoded(look_at(grey(252, 448), np.full((18, 32), 1.0)).picture).shape[:2] in {(112, 200), (113, 200)}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([[0.6, 0.2, 0.2]], 1), ([[0.25, 0.25, 0.25, 0.25]], 2), ([[0.4, 0.3], [0.2, 0.1]], 2), ([[1.0]], 1)],
)
def test_the_places_that_hold_half_of_the_weight(weights: list[list[float]], expected: int) -> None:
    assert places_of_half(np.array(weights)) == expected


def test_each_picture_has_its_own_map() -> None:
    maps = np.zeros((2, 2, 2))
    maps[0, 0, 0], maps[1, 1, 1] = 1, 1
    found = looks_at({"a.jpg": grey(), "b.jpg": grey()}, maps)
    assert found["a.jpg"].caption == "half of the attention on 1 of 4 places"
    first, second = (decoded(found[row].picture) for row in ("a.jpg", "b.jpg"))
    assert first[10, 20].sum() > second[10, 20].sum()
    assert first[54, 110].sum() < second[54, 110].sum()
    with pytest.raises(ValueError, match="zip"):
        looks_at({"a.jpg": grey()}, maps)
