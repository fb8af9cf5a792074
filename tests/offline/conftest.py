"""Labelled drives without pictures: files that are only counted, and hashes that are only compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from offline.data.dataset import Dataset, Row
from offline.splits.assign import Looks

with suppress(ImportError):
    import torch

    # A warning that torch gives once in a process would fail whichever test comes first.
    torch.set_warn_always(True)


def _drive(number: int, *, frames: int | None = None, label: int | None = None, **more: str) -> list[Row]:
    """The frames of a drive: one to four of them, with roadwork in every third drive."""
    rng = np.random.default_rng((7, number))
    count = int(rng.integers(1, 5)) if frames is None else frames
    daytime = "night" if rng.random() < 0.3 else "day"
    return [
        Row(
            image=f"{number:05d}_{frame}.jpg",
            label=int(number % 3 == 0) if label is None else label,
            group=f"drive {number:05d}",
            source=more.get("source", "dashcam"),
            metadata={"daytime": daytime} | {name: value for name, value in more.items() if name != "source"},
        )
        for frame in range(count)
    ]


def _looks(data: Dataset, same: Iterable[Sequence[str]] = ()) -> Looks:
    """Every picture looks like no other but those that are said to look the same; its difficulty is its own."""
    drawn = {row: _look(row) for row in data.ids}
    hashes: dict[str, str | None] = {row: digest for row, (digest, _) in drawn.items()}
    for first, *others in same:
        hashes |= dict.fromkeys(others, hashes[first])
    return Looks(hashes, "uniform", {row: difficulty for row, (_, difficulty) in drawn.items()})


@cache
def _look(row: str) -> tuple[str, float]:
    rng = np.random.default_rng([9, *row.encode()])
    return rng.bytes(32).hex(), float(rng.random())


@pytest.fixture(scope="session")
def drive() -> Callable[..., list[Row]]:
    return _drive


@pytest.fixture(scope="session")
def looks() -> Callable[..., Looks]:
    return _looks


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[Iterable[Row]], Dataset]:
    """A data set of these rows."""

    def make(rows: Iterable[Row]) -> Dataset:
        data = Dataset(tmp_path, tuple(rows))
        for row in data.rows:
            (tmp_path / row.image).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / row.image).touch()
        return data

    return make
