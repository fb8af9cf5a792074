"""Difficulty: a frozen scorer, named, and never tonight's model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engines.store.bundle import Provenance
from engines.store.store import Store
from offline.data.checks.fingerprints import Fingerprint
from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits.difficulty import difficulties
from offline.splits.settings import BundleDifficulty, ColumnDifficulty, ContrastDifficulty, SplitSettings

PRINTS = {
    "a.png": Fingerprint(sha256="a" * 64, phash=None, contrast=0),
    "b.png": Fingerprint(sha256="b" * 64, phash="0" * 64, contrast=51),
}


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """A grey picture, which says nothing, and a bright red one."""
    Image.new("RGB", (32, 32), (128, 128, 128)).save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "b.png")
    numbers = {"a.png": {"difficulty": "2.5"}, "b.png": {"tags.difficulty": "-1"}}
    return Dataset(tmp_path, tuple(Row(image=name, label=0, group=name, metadata=m) for name, m in numbers.items()))


def test_little_contrast_is_difficult(data: Dataset) -> None:
    scorer, scores = difficulties(data, PRINTS, ContrastDifficulty())
    assert scorer.startswith("contrast ")
    assert scores == {"a.png": 1.0, "b.png": 0.6}


def test_a_column_of_the_labels_file_may_say_it(data: Dataset) -> None:
    assert difficulties(data, {}, ColumnDifficulty()) == ("column difficulty", {"a.png": 2.5, "b.png": -1.0})


@pytest.mark.parametrize("value", ["", "hard", "nan"])
def test_a_row_without_a_number_is_named(data: Dataset, value: str) -> None:
    row = data.rows[0].model_copy(update={"metadata": {"difficulty": value}})
    with pytest.raises(DatasetError, match=r"row 'a\.png': column 'difficulty' is .*, expected a number"):
        difficulties(Dataset(data.root, (row,)), {}, ColumnDifficulty())


def test_what_a_published_bundle_is_unsure_of_is_difficult(
    data: Dataset, tmp_path: Path, bundle_files: Path, provenance: Provenance
) -> None:
    bundle = Store(tmp_path / "store").publish(bundle_files, provenance)
    scorer, scores = difficulties(data, {}, BundleDifficulty(path=tmp_path / "store" / "bundles" / bundle))
    assert scorer == f"bundle {bundle}"
    assert all(0 <= score <= 1 for score in scores.values())
    assert scores["a.png"] > scores["b.png"]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"kind": "contrast"}, ContrastDifficulty()),
        ({"kind": "column", "column": "hardness"}, ColumnDifficulty(column="hardness")),
        ({"kind": "bundle", "path": "b"}, BundleDifficulty(path=Path("b"))),
    ],
)
def test_settings_choose_the_scorer_by_its_kind(tree: dict[str, str], expected: object) -> None:
    assert SplitSettings.model_validate({"difficulty": tree}).difficulty == expected
