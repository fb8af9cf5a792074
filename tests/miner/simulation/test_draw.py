"""Labels are drawn evenly, whatever the data, and then a picture of that label."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from miner.simulation.draw import UsedPictures, challenges
from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.artifacts import sha256_file


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two pictures with roadwork among twenty."""
    rows = [Row(image=f"{number}.jpg", label=int(number < 2), group=str(number)) for number in range(20)]
    for row in rows:
        (tmp_path / row.image).write_text(row.image)
    return Dataset(tmp_path, tuple(rows))


def nothing(_: Path) -> bool:
    return False


def test_labels_are_even_and_then_pictures_are(data: Dataset) -> None:
    drawn = list(islice(challenges(data, 0, unwanted=nothing), 4000))
    assert sum(challenge.label for challenge in drawn) / 4000 == pytest.approx(0.5, abs=0.04)
    counts = Counter(challenge.image.name for challenge in drawn)
    assert len(counts) == 20
    assert counts["0.jpg"] == pytest.approx(1000, abs=150)
    assert counts["5.jpg"] == pytest.approx(2000 / 18, abs=50)
    assert len({challenge.name for challenge in drawn}) == 4000


def test_the_seed_decides(data: Dataset) -> None:
    first, again, other = (list(islice(challenges(data, seed, unwanted=nothing), 30)) for seed in (1, 1, 2))
    assert first == again != other


def test_what_the_bundle_was_made_with_is_known_by_its_content(data: Dataset, tmp_path: Path) -> None:
    hashes = [sha256_file(data.root / f"{number}.jpg") for number in range(3)]
    sets = {
        name: SplitSet(rows=(SplitRow(row=f"renamed-{n}.jpg", group=str(n), sha256=hashes[n]),), groups=1, positives=0)
        for n, name in enumerate(("train", "val_calib", "test"))
    }
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    splits = {name: part.model_dump() for name, part in sets.items()}
    Splits.model_validate({"seed": 0, "data_sha256": "d", "sets": splits, "folds": ()}).write(bundle / "splits.json")
    used = UsedPictures.of(bundle)
    assert used is not None
    assert [data.root / f"{number}.jpg" in used for number in range(4)] == [True, True, False, False]
    # Both pictures with roadwork are used, so there is none to ask about.
    with pytest.raises(DatasetError, match="every picture of label 1"):
        list(islice(challenges(data, 0, unwanted=used.__contains__), 100))


def test_unwanted_pictures_are_left_out(data: Dataset) -> None:
    drawn = islice(challenges(data, 0, unwanted=lambda file: file.name in {"0.jpg", "7.jpg"}), 500)
    assert {challenge.image.name for challenge in drawn} == {f"{n}.jpg" for n in range(20)} - {"0.jpg", "7.jpg"}


def test_a_bundle_that_does_not_say_what_it_was_made_with_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text("{}")
    assert UsedPictures.of(tmp_path) is None
