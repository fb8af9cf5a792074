"""A table of verdicts on pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.errors import DatasetError
from offline.learning.distillation.verdicts import verdicts_of


def test_a_table_names_pictures_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "verdicts.csv").write_text("image,probability,why\na.jpg,0.25,a cone\n")
    [verdict] = verdicts_of(tmp_path / "verdicts.csv")
    assert (verdict.path, verdict.probability) == (tmp_path / "a.jpg", 0.25)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image,score\na.jpg,0.5\n", "no column 'probability'"),
        ("image,probability\nb.jpg,0.5\n", r"line 2: .*b\.jpg is not there"),
        ("image,probability\na.jpg,0.5\na.jpg,0.6\n", "line 3: .* listed twice"),
        ("image,probability\na.jpg,1.5\n", "line 2: probability is '1.5', expected a number from 0 to 1"),
        ("image,probability\na.jpg,\n", "line 2: probability is ''"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_line(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "verdicts.csv").write_text(table)
    with pytest.raises(DatasetError, match=said):
        verdicts_of(tmp_path / "verdicts.csv")
