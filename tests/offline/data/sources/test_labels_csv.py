"""`labels.csv` as people and their tools write it: read as it is meant, or refused with the line and what to do."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError

Write = Callable[..., Path]
FRAMES = 400
FRAMES_OF_A_DRIVE = 16


@pytest.fixture
def data(tmp_path: Path) -> Write:
    """Writes a data directory of empty files with these labels."""

    def write(labels: str | bytes, files: Sequence[str] = ("a.jpg", "b.jpg")) -> Path:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        (tmp_path / "labels.csv").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
        return tmp_path

    return write


def drives() -> tuple[list[str], list[str]]:
    """Files and lines of 25 drives."""
    files = [f"{n:03d}.jpg" for n in range(FRAMES)]
    return files, [f"{file},{n % 2},drive {n // FRAMES_OF_A_DRIVE},note {n}" for n, file in enumerate(files)]


def refused(root: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(root)


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ('100.jpg,0,drive 6,"note', '159.jpg,1,drive 9,note"'),
        ('100.jpg,0,drive 6,"note', '159.jpg,1,drive 9,"note"'),
        ('100.jpg,0,"drive 6,note', '159.jpg,1,drive 9",note'),
        ('"100.jpg,0,drive 6,note', '159.jpg",1,drive 9,note'),
        ('100.jpg,0,drive 6,"note', "159.jpg,1,drive 9,note"),
        ('100.jpg,0,drive 6,"note', '"159.jpg",1,drive 9,note'),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(data: Write, opened: str, closed: str) -> None:
    files, lines = drives()
    lines[100], lines[159] = opened, closed
    refused(data("\n".join(["image,label,group,note", *lines]), files), r"line 102: .* double quote")


def test_a_note_of_several_lines_is_a_note(data: Write) -> None:
    rows = read_dataset(data('image,label,note\na.jpg,0,"rain,\nfog, 2 cones\n"\nb.jpg,1,\n')).rows
    assert (rows[0].about("note"), len(rows)) == ("rain,\nfog, 2 cones", 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,0,drive, 6,note", "line 2: the row has 5 values, the header 4; .* comma into double quotes"),
        ("a.jpg,0", "line 2: the row has 2 values, the header 4; the row is cut short"),
    ],
)
def test_a_row_that_does_not_fit_the_header_is_refused(data: Write, line: str, message: str) -> None:
    refused(data(f"image,label,group,note\n{line}\nb.jpg,1,x,y\n"), message)


def test_empty_lines_say_nothing(data: Write) -> None:
    assert len(read_dataset(data("\nimage,label\n\na.jpg,0\n,\nb.jpg,1\n\n"))) == 2


@pytest.mark.parametrize(
    "header", ["image,label, group,note", "Image,Label,Group,Note", '"image", label,\u00a0GROUP ,note']
)
def test_a_group_column_groups_whatever_the_case_and_blanks_of_its_name(data: Write, header: str) -> None:
    files, lines = drives()
    assert len(set(read_dataset(data("\n".join([header, *lines]), files)).groups)) == FRAMES / FRAMES_OF_A_DRIVE


@pytest.mark.parametrize(
    "header", ["image,label,group,group", "image,label,group, Group", "image,label,Time of day,time_of_day"]
)
def test_two_columns_of_one_name_are_refused(data: Write, header: str) -> None:
    refused(data(f"{header}\na.jpg,0,x,y\nb.jpg,1,x,z\n"), "the columns '.*' and '.*' have the same name")


def test_columns_without_a_name_are_not_read(data: Write) -> None:
    rows = read_dataset(data(",image,label,\n0,a.jpg,0,\n1,b.jpg,1,\n")).rows
    assert [(row.image, row.metadata) for row in rows] == [("a.jpg", {}), ("b.jpg", {})]


@pytest.mark.parametrize("nothing", ["nan", "None", "N/A", "null", "unknown", "-", "", " "])
def test_a_word_for_nothing_is_no_group_no_source_and_no_metadata(data: Write, nothing: str) -> None:
    labels = f"image,label,group,source,weather\na.jpg,0,{nothing},{nothing},{nothing}\nb.jpg,1,{nothing},x,{nothing}\n"
    found = read_dataset(data(labels))
    assert found.groups == ["a.jpg", "b.jpg"]
    assert [row.source for row in found.rows] == ["", "x"]
    assert [row.about("weather") for row in found.rows] == [None, None]
    assert found.metadata.get("weather", ["", ""]) == ["", ""]


def test_a_number_is_one_group_however_it_is_spelled(data: Write) -> None:
    assert read_dataset(data("image,label,group\na.jpg,0,7\nb.jpg,1,7.0\n")).groups == ["7", "7"]


def test_a_group_that_a_spreadsheet_rounded_is_refused(data: Write) -> None:
    refused(data("image,label,group\na.jpg,0,4.98763E+14\nb.jpg,1,4.98763E+14\n"), "line 2: the id .* was rounded")


@pytest.mark.parametrize("labels", [("0", "1"), ("0.0", "1.0"), ("false", "TRUE"), ("No", "yes")])
def test_labels_may_be_spelled_as_programs_and_people_do(data: Write, labels: tuple[str, str]) -> None:
    assert read_dataset(data(f"image,label\na.jpg,{labels[0]}\nb.jpg,{labels[1]}\n")).labels.tolist() == [0, 1]


@pytest.mark.parametrize(("delimiter", "first"), [(";", ""), ("\t", ""), ("|", ""), (";", "sep=;\n")])
def test_the_delimiter_is_found(data: Write, delimiter: str, first: str) -> None:
    lines = ["image,label,group", 'a.jpg,0,"drive 1"', "b.jpg,1,drive 1"]
    found = read_dataset(data(first + "\n".join(lines).replace(",", delimiter)))
    assert (found.ids, found.groups) == (["a.jpg", "b.jpg"], ["drive 1", "drive 1"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_file_is_decoded_by_its_mark(data: Write, encoding: str, ends: str) -> None:
    labels = ends.join(["image,label,city", "a.jpg,0,Köln", "b.jpg,1,Łódź", ""])
    assert [row.about("city") for row in read_dataset(data(labels.encode(encoding))).rows] == ["Köln", "Łódź"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label,city\na.jpg,0,x\nb.jpg,1,Köln\n".encode("latin-1"), "line 3: byte 0xf6 is not UTF-8"),
        ("image,label\na.jpg,0\n".encode("utf-16-le"), "zero bytes, it may be UTF-16"),
        (b"PK\x03\x04\x14\x00", "a zip archive, as workbooks"),
        (b"", "columns image and label missing; it has none"),
        (b'"' + b"a" * 200_000, "line 1: a double quote is opened here and not closed"),
    ],
)
def test_a_file_that_cannot_be_decoded_says_how_to_save_it(data: Write, content: bytes, message: str) -> None:
    refused(data(content), message)


class TestPaths:
    """Which file is meant."""

    def one(self, root: Path) -> Dataset:
        found = read_dataset(root)
        assert all((root / row.image).is_file() for row in found.rows)
        return found

    @pytest.mark.parametrize(
        ("written", "there"),
        [
            ("images\\a.jpg", "images/a.jpg"),
            (".\\images\\a.jpg", "images/a.jpg"),
            ("./images//a.jpg", "images/a.jpg"),
            (unicodedata.normalize("NFD", "für.jpg"), unicodedata.normalize("NFC", "für.jpg")),
            (unicodedata.normalize("NFC", "für.jpg"), unicodedata.normalize("NFD", "für.jpg")),
            ("Images/A.JPG", "images/a.jpg"),
            ("IMAGES\\" + unicodedata.normalize("NFD", "FÜR.jpg"), "images/für.jpg"),
            ("{root}/images/a.jpg", "images/a.jpg"),
            ("D:\\shared\\{name}\\images\\a.jpg", "images/a.jpg"),
            ("d:\\SHARED\\{NAME}\\Images\\a.jpg", "images/a.jpg"),
            ("\\\\server\\{name}\\images\\a.jpg", "images/a.jpg"),
            ("D:\\{name}\\2024\\{name}\\a.jpg", "a.jpg"),
            ("D:\\{name}\\2024\\x\\a.jpg", "2024/x/a.jpg"),
            # Also a name on Linux.
            ("images\\b.jpg", "images\\b.jpg"),
            ("Images\\B.jpg", "images\\b.jpg"),
            ("..\\b.jpg", "..\\b.jpg"),
            ("{root}/images\\b.jpg", "images\\b.jpg"),
        ],
    )
    def test_a_path_is_the_one_file_that_it_can_mean(
        self, data: Write, tmp_path: Path, written: str, there: str
    ) -> None:
        text = written.replace("{root}", str(tmp_path)).replace("{name}", tmp_path.name)
        text = text.replace("{NAME}", tmp_path.name.upper())
        found = self.one(data(f"image,label\n{text},1\nz.jpg,0\n", [there, "z.jpg"]))
        assert (found.ids, found.groups) == ([there, "z.jpg"], [there, "z.jpg"])

    @pytest.mark.parametrize(
        ("written", "there", "message"),
        [
            ("A.jpg", ["a.jpg", "a.JPG"], r"line 2: image 'A\.jpg' may be a\.JPG or a\.jpg: write which"),
            ("gone.jpg", ["a.jpg"], r"line 2: image 'gone\.jpg' is not in .*: there is a\.jpg, z\.jpg"),
            ("a.jpg", ["images/a.jpg"], r"is not in .*: there is images/a\.jpg; write the path of the file"),
            ("a", ["images/a.jpg"], r"is not in .*: there is images/a\.jpg; write the path of the file"),
            ("C:\\pictures\\a.jpg", ["a.jpg"], r"must be a relative path inside .*: there is a\.jpg; write"),
            ("/mnt/other/a.jpg", ["a.jpg"], r"must be a relative path inside .*: there is a\.jpg; write"),
            ("..\\a.jpg", ["a.jpg"], "must be a relative path inside"),
            ("https://host/x/a.jpg?width=3", ["b.jpg"], r"is an address, expected a relative path"),
            ("", ["a.jpg"], "line 2: image is empty"),
            ("x" * 5000, ["a.jpg"], r"image 'x{120}\.\.\.' is not in"),
        ],
    )
    def test_a_path_that_means_no_one_file_says_what_is_there(
        self, data: Write, written: str, there: list[str], message: str
    ) -> None:
        refused(data(f"image,label\n{written},1\nz.jpg,0\n", [*there, "z.jpg"]), message)

    @pytest.mark.parametrize(
        ("written", "there"),
        [
            ("images\\a.jpg", ["images/a.jpg", "images\\a.jpg"]),
            ("images\\A.jpg", ["images/a.jpg", "images\\A.jpg"]),
            ("x/images\\a.jpg", ["x/images/a.jpg", "x/images\\a.jpg"]),
            ("{root}/images\\a.jpg", ["images/a.jpg", "images\\a.jpg"]),
        ],
    )
    def test_a_backslash_that_may_be_a_separator_or_a_part_of_a_name_is_refused(
        self, data: Write, tmp_path: Path, written: str, there: list[str]
    ) -> None:
        text = written.replace("{root}", str(tmp_path))
        either = " or ".join(map(re.escape, there))
        refused(
            data(f"image,label\n{text},1\nz.jpg,0\n", [*there, "z.jpg"]),
            rf"line 2: image '.*' may be {either}: write which with /, or give {re.escape(there[1])} a name without",
        )
        # With / it is the one, and under another name the other.
        slashed = there[0]
        assert self.one(data(f"image,label\n{slashed},1\nz.jpg,0\n")).ids == [slashed, "z.jpg"]

    def test_a_directory_of_its_name_in_a_path_with_a_drive_that_may_be_either_is_refused(
        self, data: Write, tmp_path: Path
    ) -> None:
        name = tmp_path.name
        root = data(f"image,label\nD:\\{name}\\{name}\\a.jpg,1\nz.jpg,0\n", ["a.jpg", f"{name}/a.jpg", "z.jpg"])
        refused(root, rf"line 2: image '.*' may be a\.jpg or {name}/a\.jpg: write which$")

    def test_a_file_is_one_row_however_it_is_meant(self, data: Write) -> None:
        labels = "image,label\nimages/a.jpg,0\nimages\\A.jpg,1\n"
        refused(data(labels, ["images/a.jpg"]), r"'images/a\.jpg' is listed twice, in lines 2 and 3")


def test_a_file_in_place_of_its_directory_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.raises(DatasetError, match=rf"labels\.csv: is a file: give its directory, {tmp_path}$"):
        read_dataset(tmp_path / "labels.csv")
    with pytest.raises(DatasetError, match=r"roads: no such directory"):
        read_dataset(tmp_path / "roads")
