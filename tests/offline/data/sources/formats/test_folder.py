"""Groups of folders: each has its own, unless both say that they share them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from offline.data.sources.source import read_dataset

ROWS = "image,label,group\na.png,0,7\nb.png,1,\n"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (("", ""), ["one/7", "one/b.png", "two/7", "two/b.png"]),
        (('groups = "drives"', ""), ["drives/7", "one/b.png", "two/7", "two/b.png"]),
        (('groups = "drives"', 'groups = "drives"'), ["drives/7", "one/b.png", "drives/7", "two/b.png"]),
    ],
)
def test_a_group_is_one_of_its_folder_unless_two_share_theirs(
    tmp_path: Path, groups: tuple[str, str], expected: list[str]
) -> None:
    declared = ""
    for name, said in zip(("one", "two"), groups, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.csv").write_text(ROWS)
        for picture in ("a.png", "b.png"):
            Image.new("RGB", (40, 40)).save(tmp_path / name / picture)
        declared += f'[[source]]\nkind = "folder"\npath = "{name}"\n{said}\n'
    (tmp_path / "sources.toml").write_text(declared)
    assert [row.group for row in read_dataset(tmp_path).rows] == expected


def test_a_drive_that_is_called_like_its_first_picture_is_one_group_where_groups_are_shared(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label,group\na.png,0,a.png\nb.png,1,a.png\nc.png,1,\n")
    for picture in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / picture)
    (tmp_path / "sources.toml").write_text('[[source]]\nkind = "folder"\npath = "."\ngroups = "drives"\n')
    assert [row.group for row in read_dataset(tmp_path).rows] == ["drives/a.png", "drives/a.png", "c.png"]
