"""Labels that a person has looked at again."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.data.sources.source import read_dataset
from offline.errors import DatasetError


def data(home: Path, corrections: str | None) -> Path:
    for name in "abcd":
        (home / f"{name}.jpg").write_bytes(b"")
    (home / "labels.csv").write_text("image,label\na.jpg,0\nb.jpg,1\nc.jpg,0\nd.jpg,1\n")
    if corrections is not None:
        (home / "corrections.csv").write_text(corrections)
    return home


def test_a_new_label_takes_the_place_of_the_old_one_and_changes_the_hash(tmp_path: Path) -> None:
    before = read_dataset(data(tmp_path, None))
    after = read_dataset(
        data(tmp_path, "image,label,probability,loss,new_label\na.jpg,0,0.98,4.1,1\nb.jpg,1,0.1,2.3,\n")
    )
    assert before.labels.tolist() == [0, 1, 0, 1]
    assert after.labels.tolist() == [1, 1, 0, 1]
    assert before.sha256 != after.sha256


def test_a_table_that_nobody_has_filled_in_changes_nothing(tmp_path: Path) -> None:
    before = read_dataset(data(tmp_path, None)).sha256
    assert read_dataset(data(tmp_path, "image,label,new_label\na.jpg,0,\n")).sha256 == before


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("e.jpg,0,1", r"line 2: no row is called 'e\.jpg'.*, for example 'a\.jpg'"),
        ("a.jpg,1,0", r"line 2: 'a\.jpg' has the label 0 and not 1, so somebody has mended it since"),
        ("a.jpg,0,perhaps", r"line 2: label and new_label must be 0 or 1"),
        ("a.jpg,0,1\na.jpg,0,1", r"line 3: 'a\.jpg' is corrected twice"),
    ],
)
def test_a_correction_that_does_not_fit_is_refused_with_its_line(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_dataset(data(tmp_path, f"image,label,new_label\n{lines}\n"))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="new_label"):
        read_dataset(data(tmp_path, "image,label\na.jpg,0\n"))
