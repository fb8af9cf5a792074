"""The packed table of kept images: what is read is what was put in, and it takes little memory."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from miner.harvest.image_table import ImageTable
from miner.harvest.kept_image import REASONS, KeptImage, main_reason
from tests.miner.harvest.test_harvest import NOON, kept, random_one

FULL: dict[str, Any] = {
    "reasons": REASONS,
    "week": "2026-W10",
    "at": NOON + timedelta(microseconds=123_457),
    "request_id": "é" * 20,
    "picture": 2**64 - 1,
    "site": 2**63,
    "exit_label": 1,
    "score": -1e300,
    "probability": 0.1 + 0.2,
    "stage2_probability": 0.0,
    "gone": True,
}


@pytest.mark.parametrize("changes", [{}, FULL, *({name: value} for name, value in FULL.items()), {"exit_label": 0}])
def test_what_is_read_is_what_was_put_in(changes: dict[str, Any]) -> None:
    table, image = ImageTable(), kept(1, **changes)
    table[image.sha256] = image
    found = table[image.sha256]
    assert found == image
    assert found.model_dump_json() == image.model_dump_json()
    assert found.at.isoformat() == image.at.isoformat(), "draws are named by it"


def test_it_is_a_mapping_in_the_order_of_what_was_put_in_last() -> None:
    table = ImageTable()
    for number in (1, 2, 3, 2):
        table.pop(kept(number).sha256, None)
        table[kept(number).sha256] = kept(number)
    del table[kept(3).sha256]
    assert list(table.values()) == [kept(1), kept(2)]
    assert kept(3).sha256 not in table
    assert table.get(kept(3).sha256) is None


def test_an_outline_says_what_the_image_says() -> None:
    images = [kept(1, **FULL), kept(2), random_one(3), random_one(4, gone=True)]
    table = ImageTable()
    for one in images:
        table[one.sha256] = one
    for image, outline in zip(images, table.outlines(), strict=True):
        said = (outline.sha256, outline.size, outline.main_reason, outline.gone, outline.week)
        assert said == (image.sha256, image.size, main_reason(image), image.gone, image.week)
    assert [one.at for one in table.outlines()] == [int(one.at.timestamp() * 10**6) for one in images]


@pytest.mark.parametrize("wrong", [{"site": -1}, {"picture": 2**64}, {"size": -1}, {"at": "2026-03-02T12:00:00"}])
def test_what_cannot_be_packed_is_refused_where_it_is_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KeptImage.model_validate(kept(1).model_dump() | wrong)


def test_an_image_takes_a_few_hundred_bytes() -> None:
    images = (kept(number, picture=number << 40, score=number / 7) for number in range(2000))
    table = ImageTable()
    tracemalloc.start()
    try:
        for one in images:
            table[one.sha256] = one
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / len(table) < 400
