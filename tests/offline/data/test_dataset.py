"""Labelled images: what `labels.csv` may say, and how the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.machine.cores import usable_cores
from offline.data.dataset import DECODED_AHEAD
from offline.data.named_targets import NO_TARGET, named_targets
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError
from stage1.model.settings import NamedHead
from stage1.preprocess import PreprocessSettings, preprocess


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], Path]:
    """A directory with images a.jpg .. d.jpg and these labels."""
    for number, name in enumerate("abcd"):
        Image.new("RGB", (48, 32), (60 * number, 0, 0)).save(tmp_path / f"{name}.jpg")

    def write(labels: str) -> Path:
        (tmp_path / "labels.csv").write_text(labels)
        return tmp_path

    return write


GOOD = "image,label,group,source,weather\na.jpg,0,g1,s,rain\nb.jpg,1,g1,s,\nc.jpg,1,,s,dry\n"


def test_rows_are_read_with_group_source_and_metadata(data: Callable[[str], Path]) -> None:
    rows = read_dataset(data(GOOD)).rows
    assert [(row.image, row.label, row.group) for row in rows] == [
        ("a.jpg", 0, "g1"),
        ("b.jpg", 1, "g1"),
        ("c.jpg", 1, "c.jpg"),
    ]
    assert [row.metadata for row in rows] == [{"weather": "rain"}, {}, {"weather": "dry"}]


def test_two_columns_are_enough(data: Callable[[str], Path]) -> None:
    dataset = read_dataset(data("image,label\na.jpg,0\nb.jpg,1\n"))
    assert dataset.groups == ["a.jpg", "b.jpg"]


def test_metadata_are_columns_for_all_rows(data: Callable[[str], Path]) -> None:
    assert read_dataset(data(GOOD)).metadata == {"weather": ["rain", "", "dry"]}


def test_a_dotted_column_is_found_by_its_last_name(data: Callable[[str], Path]) -> None:
    labels = "image,label,video_info.vid_id,vid_id\na.jpg,0,7,8\nb.jpg,1,7,\nc.jpg,1, ,\n"
    rows = read_dataset(data(labels)).rows
    assert [row.about("vid_id") for row in rows] == ["8", "7", None]
    assert rows[0].about("id") is None


def test_a_class_of_a_head_may_be_a_word_for_nothing_elsewhere(data: Callable[[str], Path]) -> None:
    labels = "image,label,alteration\na.jpg,0,none\nb.jpg,1,active\nc.jpg,1,unknown\n"
    found = read_dataset(data(labels))
    head = NamedHead(column="alteration", classes=("none", "active"))
    assert named_targets(found, {"h": head})["h"].tolist() == [0, 1, NO_TARGET]
    assert [row.about("alteration") for row in found.rows] == [None, "active", None]


@pytest.mark.parametrize("spelling", ["none", "None", "NONE", " none "])
def test_a_class_of_a_head_is_known_in_any_spelling(data: Callable[[str], Path], spelling: str) -> None:
    """Were `None` a word for nothing here, the rows of another export would teach the head nothing, in silence."""
    labels = f"image,label,alteration\na.jpg,0,{spelling}\nb.jpg,1,Active\nc.jpg,1,not  known\n"
    head = NamedHead(column="Alteration", classes=("none", "active", "Not known"))
    assert named_targets(read_dataset(data(labels)), {"h": head})["h"].tolist() == [0, 1, 2]


def test_a_class_that_is_a_number_is_known_as_pandas_writes_it(data: Callable[[str], Path]) -> None:
    found = read_dataset(data("image,label,lanes\na.jpg,0,1.0\nb.jpg,1,2.0\nc.jpg,1,\n"))
    head = NamedHead(column="lanes", classes=("1", "2"))
    assert named_targets(found, {"h": head})["h"].tolist() == [0, 1, NO_TARGET]


def test_classes_that_differ_in_their_spelling_alone_are_told_apart_by_it(data: Callable[[str], Path]) -> None:
    found = read_dataset(data("image,label,kind\na.jpg,0,A\nb.jpg,1,a\nc.jpg,1, \n"))
    head = NamedHead(column="kind", classes=("a", "A"))
    assert named_targets(found, {"h": head})["h"].tolist() == [1, 0, NO_TARGET]


def test_values_and_sources_have_one_spelling(data: Callable[[str], Path]) -> None:
    labels = "image,label,source,weather\na.jpg,0,Kaggle,Heavy rain\nb.jpg,1, kaggle,heavy  RAIN\nc.jpg,1,N/A,1.0\n"
    found = read_dataset(data(labels))
    assert [row.source for row in found.rows] == ["kaggle", "kaggle", ""]
    assert found.metadata == {"weather": ["heavy rain", "heavy rain", "1"]}


def test_the_hash_of_the_data_is_that_of_the_rows_in_any_order(data: Callable[[str], Path]) -> None:
    head, *lines = GOOD.splitlines()
    first = read_dataset(data(GOOD)).sha256
    assert read_dataset(data("\n".join([head, *reversed(lines)]))).sha256 == first
    assert read_dataset(data(GOOD.replace("rain", "snow"))).sha256 != first


def test_rows_can_be_put_into_other_groups(data: Callable[[str], Path]) -> None:
    dataset = read_dataset(data(GOOD)).regrouped({"a.jpg": "x", "b.jpg": "y", "c.jpg": "x", "z.jpg": "w"})
    assert dataset.groups == ["x", "y", "x"]
    assert dataset.ids == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("image\na.jpg\n", "column label missing"),
        ("image,label\na.jpg,0\nb.jpg,cone\n", "line 3: label is 'cone', expected 0 or 1.*; the column holds 0, cone"),
        ("image,label\na.jpg,0\nb.jpg,2\n", "line 3"),
        ("image,label\na.jpg,0\n../b.jpg,1\n", "relative path"),
        ("image,label\na.jpg,0\n/etc/passwd,1\n", "relative path"),
        ("image,label\na.jpg,0\na.jpg,1\n", "listed twice"),
        ("image,label\na.jpg,0\nz.jpg,1\n", "'z.jpg' is not in"),
        ("image,label\na.jpg,0\nb.jpg,0\n", "no row with label 1"),
        ("", "columns image and label missing"),
    ],
)
def test_what_is_wrong_is_named(data: Callable[[str], Path], labels: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(data(labels))


def test_a_directory_without_labels_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds labels\.csv"):
        read_dataset(tmp_path)


def test_images_go_through_the_serving_preprocess_in_order(data: Callable[[str], Path]) -> None:
    dataset, settings = read_dataset(data(GOOD)), PreprocessSettings(size_px=32)
    expected = [preprocess((dataset.root / row.image).read_bytes(), settings) for row in dataset.rows]
    assert np.array_equal(dataset.array(settings), np.stack(expected))


def test_an_unreadable_image_is_named(data: Callable[[str], Path]) -> None:
    root = data(GOOD)
    (root / "b.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"b\.jpg"):
        read_dataset(root).array(PreprocessSettings(size_px=32))


def test_the_hash_follows_labels_and_files(data: Callable[[str], Path]) -> None:
    root = data(GOOD)
    before = read_dataset(root).sha256
    assert read_dataset(data(GOOD)).sha256 == before
    assert read_dataset(data(GOOD.replace("b.jpg,1", "b.jpg,0"))).sha256 != before
    data(GOOD)
    (root / "b.jpg").write_bytes((root / "b.jpg").read_bytes() + b"\0")
    assert read_dataset(root).sha256 != before


def test_a_row_that_is_gone_is_named(data: Callable[[str], Path]) -> None:
    with pytest.raises(DatasetError, match="z"):
        read_dataset(data(GOOD)).pick(["a.jpg", "z"])


@pytest.mark.parametrize("spelling", ["./a.jpg", ".//a.jpg", "././a.jpg"])
def test_a_picture_is_one_row_however_its_path_is_spelled(data: Callable[[str], Path], spelling: str) -> None:
    """Otherwise it could train under one name and test under the other."""
    with pytest.raises(DatasetError, match=r"'a\.jpg' is listed twice"):
        read_dataset(data(f"image,label\na.jpg,0\n{spelling},1\n"))


def test_a_group_of_its_own_is_the_picture_however_its_path_is_spelled(data: Callable[[str], Path]) -> None:
    [first, second] = read_dataset(data("image,label\n./a.jpg,0\nb.jpg,1\n")).rows
    assert (first.image, first.group) == ("a.jpg", "a.jpg")
    assert (second.image, second.group) == ("b.jpg", "b.jpg")


def test_a_file_saved_by_a_spreadsheet_is_read(data: Callable[[str], Path]) -> None:
    """Spreadsheets put a byte order mark before the first column's name."""
    root = data("")
    (root / "labels.csv").write_bytes("\ufeffimage,label\r\na.jpg,0\r\nb.jpg,1\r\n".encode())
    assert read_dataset(root).ids == ["a.jpg", "b.jpg"]


def test_decoding_does_not_run_far_ahead_of_a_slow_consumer(
    data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is slower than the decoder, and a data set of decoded pictures does not fit into memory."""
    root = data("")
    begun: list[object] = []
    lines = [f"{number}.jpg,{number % 2}" for number in range(400)]
    for number in range(400):
        (root / f"{number}.jpg").write_bytes((root / "a.jpg").read_bytes())
    (root / "labels.csv").write_text("\n".join(["image,label", *lines]))

    class Counted(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
            begun.append(arguments)
            return super().submit(*arguments, **options)

    monkeypatch.setattr("offline.data.dataset.ThreadPoolExecutor", Counted)
    for taken, _ in enumerate(read_dataset(root).pixels(PreprocessSettings(size_px=32)), start=1):
        assert len(begun) <= taken + DECODED_AHEAD * usable_cores()
    assert taken == len(begun) == 400
