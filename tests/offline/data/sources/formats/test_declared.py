"""`sources.toml`: several sources as one data set, and what is wrong with a bad one in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offline.data.sources.formats import json_file
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError
from stage1.preprocess import PreprocessSettings

SETTINGS = PreprocessSettings(size_px=32)


def draw(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")


def folder(home: Path, rows: str, columns: str = "image,label,group") -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "labels.csv").write_text(f"{columns}\n{rows}")
    for number, row in enumerate(rows.split()):
        draw(home / row.split(",")[0], number)


def declare(root: Path, *sources: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "sources.toml").write_text("".join(f"[[source]]\n{source}\n" for source in sources))


def test_several_directories_are_one_set_and_a_group_of_one_is_no_group_of_another(tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder(root, "a.jpg,1,7\nb.jpg,0,7\n")
    folder(tmp_path / "more", "a.jpg,0,7\nc.jpg,1,\n")
    declare(root, 'kind = "folder"\npath = "."', 'kind = "folder"\npath = "../more"\ntrain_only = true')
    found = read_dataset(root)
    assert found.ids == ["a.jpg", "b.jpg", "more/a.jpg", "more/c.jpg"]
    assert found.groups == ["7", "7", "more/7", "more/c.jpg"]
    assert [row.source for row in found.rows] == ["", "", "more", "more"]
    assert [row.train_only for row in found.rows] == [False, False, True, True]
    assert found.array(SETTINGS).shape == (4, 3, 32, 32)
    assert found.path_of("more/c.jpg").read_bytes() == (tmp_path / "more" / "c.jpg").read_bytes()
    # A set that is declared keeps the ids, and so the splits, that it had without a file of sources.
    (root / "sources.toml").unlink()
    assert read_dataset(root).ids == found.ids[:2]


def test_corrections_reach_the_rows_of_every_source(tmp_path: Path) -> None:
    folder(tmp_path, "a.jpg,1,\nb.jpg,0,\n")
    folder(tmp_path / "more", "a.jpg,0,\n")
    declare(tmp_path, 'kind = "folder"\npath = "."', 'kind = "folder"\npath = "more"')
    (tmp_path / "corrections.csv").write_text("image,label,new_label\nmore/a.jpg,0,1\n")
    assert read_dataset(tmp_path).labels.tolist() == [1, 0, 1]


COCO: dict[str, Any] = {
    "info": {"year": 2026},
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40, "video_id": 4, "date_captured": "2026-01-01 10:00"},
        {"id": 2, "file_name": "b.jpg", "width": 60, "height": 40, "video_id": 5},
        {"id": 3, "file_name": "c.jpg", "width": 60, "height": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 8, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 7, "name": "cone", "supercategory": "work"}, {"id": 8, "name": "car"}],
}


def coco(root: Path, **changes: Any) -> None:
    for number, name in enumerate("abc"):
        draw(root / "images" / f"{name}.jpg", number)
    (root / "boxes.json").write_text(json.dumps(COCO | changes))
    declare(root, 'kind = "coco"\npath = "boxes.json"\nimages = "images"\nroadwork = ["cone"]')


def test_a_picture_with_a_box_of_a_category_of_roadwork_shows_roadwork(tmp_path: Path) -> None:
    coco(tmp_path)
    found = read_dataset(tmp_path)
    assert found.ids == ["boxes/a.jpg", "boxes/b.jpg", "boxes/c.jpg"]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.rows[0].metadata == {"video_id": "4", "date_captured": "2026-01-01 10:00"}
    assert found.rows[0].sequence("video_id") == "4"
    assert found.array(SETTINGS).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 8, "name": "car"}]}, "no category is called 'cone', which the setting roadwork names"),
        ({"annotations": [{"image_id": 9, "category_id": 7}]}, "an annotation is of image 9 and category 7"),
        ({"images": [COCO["images"][0]] * 2}, "two images have the same id"),
        (
            {"images": [{"id": 1, "file_name": "../secret.jpg"}], "annotations": []},
            "image 1: image '../secret.jpg' must be a relative",
        ),
        ({"images": [{"id": 1, "file_name": "d.jpg"}], "annotations": []}, "image 1: image 'd.jpg' is not in"),
        ({"images": {"a": 1}}, "is not a COCO file: images: Input should be a valid array"),
        ({"images": [{"id": 1, "file_name": ""}]}, "images.0.file_name: String should have at least 1 character"),
        (
            {"images": [{"id": n, "file_name": "a.jpg"} for n in (1, 2)], "annotations": []},
            "the image 'a.jpg' is listed twice",
        ),
    ],
)
def test_a_bad_coco_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    coco(tmp_path, **changes)
    with pytest.raises(DatasetError, match=rf"boxes\.json: .*{message}|boxes\.json: {message}"):
        read_dataset(tmp_path)


def task(number: int, image: str, *results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    annotations = [{"id": n, "was_cancelled": False, "result": result} for n, result in enumerate(results)]
    return {"id": number, "data": {"image": image, "drive": "d1"}, "annotations": annotations} | more


def choice(name: str) -> list[dict[str, Any]]:
    return [{"from_name": "c", "to_name": "image", "type": "choices", "value": {"choices": [name]}}]


def box(name: str) -> list[dict[str, Any]]:
    value = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": [name]}
    return [{"type": "rectanglelabels", "value": value}]


def studio(root: Path, *tasks: Any) -> None:
    for number, name in enumerate("abcdef"):
        draw(root / f"{name}.jpg", number)
    (root / "tasks.json").write_text(json.dumps(list(tasks)))
    declare(root, 'kind = "label_studio"\npath = "tasks.json"\nroadwork = ["Works", "Cone"]\nclear = ["Clear"]')


def test_choices_and_boxes_of_label_studio_are_labels(tmp_path: Path) -> None:
    studio(
        tmp_path,
        task(1, "/data/local-files/?d=a.jpg", choice("Works")),
        task(2, "/data/upload/3/0a1b2c3d-b.jpg", choice("Clear")),
        task(3, "c.jpg", box("Cone")),
        task(4, "d.jpg", box("Car")),
        # Two who do not agree, and nobody.
        task(5, "e.jpg", choice("Works"), choice("Clear")),
        task(6, "f.jpg"),
    )
    found = read_dataset(tmp_path)
    assert found.ids == [f"tasks/{name}.jpg" for name in "abcd"]
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.rows[0].metadata == {"drive": "d1"}


def test_a_group_of_coco_and_of_label_studio_is_one_of_its_source(tmp_path: Path) -> None:
    coco(tmp_path, images=[image | {"Group": 7} for image in COCO["images"][:2]] + COCO["images"][2:])
    assert read_dataset(tmp_path).groups == ["boxes/7", "boxes/7", "boxes/c.jpg"]
    tasks = [task(n, f"{name}.jpg", choice(said)) for n, name, said in [(1, "a", "Works"), (2, "b", "Clear")]]
    for one in tasks:
        one["data"]["group"] = "drive 1"
    studio(tmp_path / "studio", *tasks)
    assert read_dataset(tmp_path / "studio").groups == ["tasks/drive 1"] * 2


def test_two_columns_that_are_called_group_are_refused(tmp_path: Path) -> None:
    """One of them would be taken for what ties rows, and the other forgotten."""
    coco(tmp_path, images=[COCO["images"][0] | {"Group": 7, "group": 8}, *COCO["images"][1:]])
    with pytest.raises(DatasetError, match="the columns 'Group' and 'group' have the same name"):
        read_dataset(tmp_path)


def test_an_annotation_that_was_cancelled_says_nothing(tmp_path: Path) -> None:
    cancelled = task(1, "a.jpg", choice("Works"), choice("Clear"))
    cancelled["annotations"][0]["was_cancelled"] = True
    studio(tmp_path, cancelled, task(2, "b.jpg", choice("Works")))
    assert read_dataset(tmp_path).labels.tolist() == [0, 1]


def test_an_annotation_that_chooses_nothing_or_both_says_nothing(tmp_path: Path) -> None:
    studio(
        tmp_path,
        task(1, "a.jpg", choice("Works")),
        task(2, "b.jpg", choice("Clear")),
        task(3, "c.jpg", []),
        task(4, "d.jpg", [{"type": "textarea", "value": {"text": ["dark"]}}]),
        task(5, "e.jpg", choice("Works") + choice("Clear")),
        # One of two has looked away, which is no word against the other.
        task(6, "f.jpg", [], choice("Works")),
    )
    found = read_dataset(tmp_path)
    assert found.ids == ["tasks/a.jpg", "tasks/b.jpg", "tasks/f.jpg"]
    assert found.labels.tolist() == [1, 0, 1]


def test_where_only_boxes_are_drawn_an_empty_annotation_is_a_picture_without_roadwork(tmp_path: Path) -> None:
    studio(tmp_path, task(1, "a.jpg", box("Cone")), task(2, "b.jpg", []))
    declare(tmp_path, 'kind = "label_studio"\npath = "tasks.json"\nroadwork = ["Cone"]')
    assert read_dataset(tmp_path).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task(1, "a.jpg", choice("Maybe"))], "task 1: the choice 'Maybe' is neither in the setting roadwork nor in"),
        ([task(1, "z.jpg", choice("Works"))], "task 1: image 'z.jpg' is not in"),
        ([task(1, "s3://bucket/a.jpg", choice("Works"))], "task 1: image 's3://bucket/a.jpg' is an address"),
        ([task(1, "a.jpg", choice("Works"))] * 2, "task 1: the image 'a.jpg' is in two tasks"),
        ([{"image": "a.jpg", "choice": "Works", "id": 1}], "format JSON, a list of tasks .*: 0.data: Field required"),
        ([task(1, "a.jpg", choice("Works"), data={"photo": "a.jpg"})], "has no 'image' in its data, but photo"),
    ],
)
def test_a_bad_export_of_label_studio_is_refused(tmp_path: Path, tasks: list[Any], message: str) -> None:
    studio(tmp_path, *tasks)
    with pytest.raises(DatasetError, match=rf"tasks\.json: .*{message}|tasks\.json: {message}"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    studio(tmp_path)
    (tmp_path / "tasks.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"tasks\.json: is not an export of Label Studio"):
        read_dataset(tmp_path)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "MOST_BYTES", 1)
    studio(tmp_path)
    with pytest.raises(DatasetError, match="the limit is 0 GiB; export it in parts"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "source: Field required"),
        ("[[source]]\nkind = 'excel'\npath = 'a'", "Input tag 'excel' found using 'kind' does not match"),
        ("[[source]]\nkind = 'folder'", "path: Field required"),
        ("[[source]]\nkind = 'folder'\npath = '.'\nlabels = 1", "labels: Extra inputs are not permitted"),
        ("[[source]]\nkind = 'parquet'\npath = '.'\nrepo = 'a/b'", "give either path, of a local copy, or repo"),
        ("[[source]]\nkind = 'coco'\npath = 'a'\nroadwork = []", "roadwork: Tuple should have at least 1 item"),
        ("[[source]]\nkind = 'folder'\npath = 'a'\nname = '../b'", "name: String should match pattern"),
        ("[[source]]\nkind = 'folder'\npath = 'x/a'\n[[source]]\nkind = 'folder'\npath = 'y/a'", "two sources are ca"),
        ("[[source", "is no TOML"),
    ],
)
def test_a_bad_file_of_sources_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "sources.toml").write_text(content)
    with pytest.raises(DatasetError, match=rf"sources\.toml: .*{message}|sources\.toml: {message}"):
        read_dataset(tmp_path)


def test_a_directory_of_shards_without_a_file_of_sources_is_told_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").touch()
    with pytest.raises(DatasetError, match=r"write a sources\.toml with \[\[source\]\], kind = \"parquet\""):
        read_dataset(tmp_path)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Packages that cannot be imported."""

    def block(name: str) -> None:
        monkeypatch.setitem(__import__("sys").modules, name, None)

    return block


def test_without_the_packages_of_a_format_the_message_names_the_extra(
    tmp_path: Path, blocked: Callable[[str], None]
) -> None:
    blocked("pyarrow.parquet")
    declare(tmp_path, 'kind = "parquet"\npath = "."')
    with pytest.raises(DatasetError, match=r"needs pyarrow, which is not installed: install the extra `parquet`"):
        read_dataset(tmp_path)
