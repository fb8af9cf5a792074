"""Fingerprints: copies of a picture are known again, other pictures are not, and each is decoded once."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import offline.data.checks.fingerprints
from offline.data.checks.fingerprints import FINGERPRINTS, SCHEME, Fingerprint, fingerprint, fingerprints
from offline.data.checks.likeness import Likeness
from offline.data.checks.perceptual_hash import nearest, words_of
from offline.data.dataset import Dataset, Row
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.synthetic_streets import draw_frame
from offline.errors import DatasetError
from offline.splits.dependent_groups import components
from offline.splits.settings import SplitSettings
from stage1.artifacts import sha256_file
from stage1.image_file import EXIF_ORIENTATION, UPRIGHT, decode

Edit = Callable[[Image.Image], Image.Image]


def moved(image: Image.Image, right: int, down: int) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), (down, right), (0, 1)))


def jpeg(image: Image.Image, quality: int = 80) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


COPIES: dict[str, Edit] = {
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "shifted": lambda image: moved(image, 3, 1),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2)),
    "cropped": lambda image: image.crop((3, 2, image.width - 3, image.height - 2)),
    "compressed again": lambda image: Image.open(io.BytesIO(jpeg(image, 30))),
    "grey": lambda image: image.convert("L"),
}


def street(number: int) -> Image.Image:
    return draw_frame(plan_scene(number, seed=4, difficulty=0.25), 0)


def looks(found: Fingerprint) -> tuple[str | None, float]:
    """What a fingerprint says of the pixels, and not of the file."""
    return found.phash, found.contrast


@pytest.fixture
def taken(tmp_path: Path) -> Callable[[Image.Image, str], Fingerprint]:
    def take(image: Image.Image, ending: str = "jpg") -> Fingerprint:
        path = tmp_path / f"picture.{ending}"
        if ending == "jpg":
            path.write_bytes(jpeg(image))
        else:
            image.save(path)
        return fingerprint(path)

    return take


def bits(first: Fingerprint, second: Fingerprint) -> int:
    found = nearest(words_of([first.phash or ""]), words_of([second.phash or ""]))
    assert found is not None
    return found[0]


@pytest.mark.parametrize("edit", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("number", [0, 3, 11])
def test_a_copy_is_known_again(taken: Callable[..., Fingerprint], edit: Edit, number: int) -> None:
    limit = SplitSettings().hash_distance
    assert limit is not None
    assert bits(taken(street(number)), taken(edit(street(number)))) <= limit


def test_another_place_is_not_the_same(taken: Callable[..., Fingerprint]) -> None:
    words = words_of([taken(street(number)).phash or "" for number in range(40)])
    found = [nearest(words[:, [n]], np.delete(words, n, axis=1)) for n in range(40)]
    assert min(pair[0] for pair in found if pair) > 54


def test_the_format_does_not_matter(taken: Callable[..., Fingerprint]) -> None:
    assert bits(taken(street(1)), taken(street(1), "png")) <= 10


LYING = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_copy_that_lies_in_its_file_is_known_again(
    taken: Callable[..., Fingerprint], tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    lying = street(3).transpose(UPRIGHT[LYING[orientation]])
    lying.save(tmp_path / "lying.png", exif=exif)
    assert looks(fingerprint(tmp_path / "lying.png")) == looks(taken(street(3), "png"))


DEEP = np.asarray(street(2).convert("L")).astype(np.uint16) * 257
KINDS: dict[str, tuple[Image.Image, str]] = {
    "grey": (street(2).convert("L"), "png"),
    "16 bits": (Image.fromarray(DEEP), "png"),
    "palette": (street(2).quantize(64), "png"),
    "transparent palette": (street(2).convert("RGBA").quantize(64), "png"),
    "alpha": (Image.merge("RGBA", (*street(2).split(), street(1).convert("L"))), "png"),
    "alpha in webp": (Image.merge("RGBA", (*street(2).split(), street(1).convert("L"))), "webp"),
    "grey and alpha": (Image.merge("LA", (street(2).convert("L"), street(1).convert("L"))), "png"),
    "cmyk": (street(2).convert("CMYK"), "jpg"),
    "jpeg": (street(2), "jpg"),
    "large jpeg": (street(2).resize((2560, 1440)), "jpg"),
}


@pytest.mark.parametrize(("image", "ending"), KINDS.values(), ids=KINDS.keys())
def test_it_is_taken_of_the_pixels_that_a_model_sees(tmp_path: Path, image: Image.Image, ending: str) -> None:
    image.save(tmp_path / f"kind.{ending}")
    decode((tmp_path / f"kind.{ending}").read_bytes()).save(tmp_path / "seen.png")
    assert looks(fingerprint(tmp_path / f"kind.{ending}")) == looks(fingerprint(tmp_path / "seen.png"))


def test_a_copy_in_16_bits_has_the_contrast_of_the_picture(taken: Callable[..., Fingerprint], tmp_path: Path) -> None:
    KINDS["16 bits"][0].save(tmp_path / "deep.png")
    assert looks(fingerprint(tmp_path / "deep.png")) == looks(taken(street(2).convert("L"), "png"))


def test_a_blank_picture_looks_like_nothing(taken: Callable[..., Fingerprint]) -> None:
    blank = taken(Image.new("RGB", (320, 240), (7, 7, 7)))
    assert (blank.phash, blank.contrast) == (None, 0)
    assert taken(street(1)).contrast > 20


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """Three streets, and the first one again under another name, in another size and light."""
    images = [street(0), street(1), street(2), ImageEnhance.Brightness(moved(street(0), 2, 1)).enhance(1.1)]
    rows = [Row(image=f"{number}.jpg", label=number % 2, group=f"{number}.jpg") for number in range(4)]
    for row, image in zip(rows, images, strict=True):
        (tmp_path / row.image).write_bytes(jpeg(image))
    return Dataset(tmp_path, tuple(rows))


def test_near_copies_are_one_group_and_other_pictures_are_not(pictures: Dataset, tmp_path: Path) -> None:
    hashes = {row: taken.phash for row, taken in fingerprints(pictures, tmp_path / FINGERPRINTS).items()}
    found = components(pictures.rows, Likeness(hashes, 40), SplitSettings())
    assert [[row.image for row in part] for part in found] == [["0.jpg", "3.jpg"], ["1.jpg"], ["2.jpg"]]


def test_only_new_and_changed_pictures_are_decoded_on_the_next_night(pictures: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "workspace.jsonl"
    told: list[tuple[int, int, str]] = []
    first = fingerprints(Dataset(pictures.root, pictures.rows[:2]), cache, lambda *step: told.append(step))
    assert fingerprints(Dataset(pictures.root, pictures.rows[:2]), cache, lambda *step: told.append(step)) == first
    assert told == [(2, 2, "fingerprints")]
    fingerprints(pictures, cache, lambda *step: told.append(step))
    assert told[1:] == [(2, 2, "fingerprints")]
    (pictures.root / "1.jpg").write_bytes(jpeg(street(9)))
    os.utime(pictures.root / "1.jpg", ns=(1, 1))
    changed = fingerprints(pictures, cache, lambda *step: told.append(step))
    assert told[2:] == [(1, 1, "fingerprints")]
    assert changed["1.jpg"] == fingerprint(pictures.root / "1.jpg") != first["1.jpg"]


def test_the_content_of_a_file_is_hashed_as_it_lies_on_the_disk(pictures: Dataset, tmp_path: Path) -> None:
    taken = fingerprints(pictures, tmp_path / FINGERPRINTS)
    assert {row: found.sha256 for row, found in taken.items()} == {
        row: sha256_file(pictures.root / row) for row in pictures.ids
    }
    # From the cache, too.
    assert fingerprints(pictures, tmp_path / FINGERPRINTS) == taken


def test_a_fingerprint_of_the_version_before_is_taken_again(pictures: Dataset, tmp_path: Path) -> None:
    """It does not know the content of its file."""
    expected = fingerprints(pictures, tmp_path / FINGERPRINTS)
    lines = [json.loads(line) for line in (tmp_path / FINGERPRINTS).read_text().splitlines()]
    for line in lines:
        line["schema_version"] = 1
        del line["fingerprint"]["sha256"]
    old = tmp_path / "old.jsonl"
    old.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    told: list[tuple[int, int, str]] = []
    for _ in range(2):
        assert fingerprints(pictures, old, lambda *step: told.append(step)) == expected
    assert told == [(4, 4, "fingerprints")]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is decoded from now on."""
    seen: list[bytes] = []

    def hear(content: bytes) -> Image.Image:
        seen.append(content)
        return decode(content)

    monkeypatch.setattr(offline.data.checks.fingerprints, "decode", hear)
    return seen


@pytest.mark.parametrize("how", ["in place", "renamed over it"])
def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_taken_again(
    pictures: Dataset, tmp_path: Path, how: str
) -> None:
    """So do rsync -t, cp -p, tar and unzip."""
    cache, path = tmp_path / "workspace.jsonl", pictures.root / "1.jpg"
    other = jpeg(street(9))
    size = max(len(other), path.stat().st_size)
    # What lies behind the end of a JPEG is no part of the picture.
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    first, before = fingerprints(pictures, cache), path.stat()
    target = path if how == "in place" else path.with_suffix(".partial")
    target.write_bytes(other.ljust(size, b"\0"))
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    after = fingerprints(pictures, cache)
    assert after["1.jpg"] == fingerprint(path) != first["1.jpg"]
    assert {row: after[row] for row in pictures.ids if row != "1.jpg"} == {
        row: first[row] for row in pictures.ids if row != "1.jpg"
    }


def test_files_that_are_copied_or_renamed_are_read_and_not_decoded(
    pictures: Dataset, tmp_path: Path, decoded: list[bytes]
) -> None:
    cache = tmp_path / "workspace.jsonl"
    expected = fingerprints(pictures, cache)
    assert len(decoded) == 4
    copied = tmp_path / "elsewhere"
    shutil.copytree(pictures.root, copied)
    assert fingerprints(Dataset(copied, pictures.rows), cache) == expected
    (copied / "0.jpg").rename(copied / "new.jpg")
    (renamed,) = fingerprints(Dataset(copied, (Row(image="new.jpg", label=0, group="0"),)), cache).values()
    assert renamed == expected["0.jpg"]
    assert len(decoded) == 4


def test_a_fingerprint_that_does_not_know_the_inode_is_believed_only_for_the_same_content(
    pictures: Dataset, tmp_path: Path, decoded: list[bytes]
) -> None:
    cache = tmp_path / "workspace.jsonl"
    expected = fingerprints(pictures, cache)
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    for line in lines:
        line["schema_version"] = 2
        del line["ctime_ns"], line["inode"]
        # As if the file had been replaced before this program saw it.
        if line["image"] == "2.jpg":
            line["fingerprint"]["sha256"] = "0" * 64
            line["fingerprint"]["phash"] = "0" * 64
    cache.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    decoded.clear()
    told: list[tuple[int, int, str]] = []
    for _ in range(2):
        assert fingerprints(pictures, cache, lambda *step: told.append(step)) == expected
    assert told == [(4, 4, "fingerprints")]
    assert decoded == [(pictures.root / "2.jpg").read_bytes()]


def test_a_fingerprint_that_was_taken_in_another_way_is_taken_again(pictures: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "workspace.jsonl"
    expected = fingerprints(pictures, cache)
    lines = cache.read_text().replace(SCHEME, "phash256-draft160-v1")
    cache.write_text(re.sub(r'"phash":"[0-9a-f]{64}"', f'"phash":"{"0" * 64}"', lines))
    assert fingerprints(pictures, cache) == expected
    assert fingerprints(pictures, cache) == expected
    assert len(cache.read_text().splitlines()) == 8


def test_a_fingerprint_that_a_crash_cut_short_is_taken_again(pictures: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "workspace.jsonl"
    expected = fingerprints(pictures, cache)
    cache.write_bytes(cache.read_bytes()[:-30])
    assert fingerprints(pictures, cache) == expected
    assert len(cache.read_text().splitlines()) == 5


@pytest.mark.parametrize("line", ['{"schema_version": 4, "image": "1.jpg"}', "[1]", "?"])
def test_a_line_of_another_program_stops_no_night(pictures: Dataset, tmp_path: Path, line: str) -> None:
    cache = tmp_path / "workspace.jsonl"
    expected = fingerprints(pictures, cache)
    first, *rest = cache.read_text().splitlines()
    cache.write_text("\n".join([line, *rest]) + "\n")
    assert fingerprints(pictures, cache) == expected
    assert cache.read_text().splitlines() == [line, *rest, first]


def test_a_picture_that_cannot_be_read_is_named(pictures: Dataset, tmp_path: Path) -> None:
    (pictures.root / "2.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"2\.jpg"):
        fingerprints(pictures, tmp_path / FINGERPRINTS)
