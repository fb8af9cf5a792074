"""Bad data: each kind is found before training, with a message that says what and what to do."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offline.data.checks import file_looks
from offline.data.checks.file_looks import Look, look_at
from offline.data.checks.preflight import PreflightReport, check, judge, run_preflight
from offline.data.dataset import Dataset, Row
from offline.data.settings import PreflightSettings
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError
from offline.night import with_contents
from offline.splits.splits_file import check_classes
from stage1.preprocess import PreprocessSettings, upright

PREPROCESS = PreprocessSettings(size_px=32)
SETTINGS = PreflightSettings()


def picture(seed: int, size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: Iterable[tuple[str, object, bytes | None]]) -> Path:
    """A data directory; a file whose content is None is listed and not there."""
    with (root / "labels.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "label"])
        for name, label, content in files:
            writer.writerow([name, label])
            if content is not None:
                (root / name).write_bytes(content)
    return root


def good(count: int) -> list[tuple[str, object, bytes | None]]:
    return [(f"{n}.jpg", n % 2, picture(n)) for n in range(count)]


def fly(root: Path, settings: PreflightSettings = SETTINGS) -> tuple[Dataset, PreflightReport]:
    return run_preflight(read_dataset(root), PREPROCESS, settings)


def test_good_data_pass_whole(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    data = read_dataset(write(tmp_path, good(6)))
    kept, report = run_preflight(data, PREPROCESS, SETTINGS, lambda *step: told.append(step))
    assert kept == data
    assert (report.rows, report.left_out, report.findings) == (6, (), ())
    assert told == [(6, 6, "check images")]


CORRUPT = {
    "cut short": picture(1)[:500],
    "damaged header": picture(1).replace(b"\xff\xdb", b"\xff\xfe"),
    "text": b"<html>404</html>",
    "empty": b"",
}


@pytest.mark.parametrize("damage", CORRUPT)
def test_a_corrupt_image_is_left_out_and_counted(tmp_path: Path, damage: str) -> None:
    kept, report = fly(write(tmp_path, [*good(40), ("bad.jpg", 1, CORRUPT[damage])]))
    assert len(kept) == 40
    assert report.left_out == ("bad.jpg",)
    [finding] = report.findings
    assert (finding.kind, finding.policy, finding.rows) == ("unreadable", "left out", 1)
    assert finding.share == pytest.approx(1 / 41)
    assert finding.examples[0].startswith("'bad.jpg': ")
    # What passes can be trained on.
    assert kept.array(PREPROCESS).shape == (40, 3, 32, 32)


def test_an_image_that_shows_in_spite_of_damage_is_kept(tmp_path: Path) -> None:
    damaged = picture(1)[:700] + b"\xff\xd9\x00\xff" * 20 + picture(1)[900:]
    kept, report = fly(write(tmp_path, [*good(40), ("damaged.jpg", 1, damaged)]))
    assert len(kept) == 41
    assert report.findings == ()
    assert kept.array(PREPROCESS).shape == (41, 3, 32, 32)


def test_too_many_corrupt_images_stop_the_run(tmp_path: Path) -> None:
    bad = [(f"bad{n}.jpg", 1, CORRUPT["text"]) for n in range(3)]
    with pytest.raises(DatasetError, match=r"7\.0% of the rows cannot be used.*most_left_out.*3 rows .*'bad0\.jpg'"):
        fly(write(tmp_path, [*good(40), *bad]))
    kept, _ = fly(tmp_path, PreflightSettings(most_left_out=0.1))
    assert len(kept) == 40


@pytest.mark.parametrize("size", [(1, 1), (640, 3)])
def test_an_image_of_a_few_pixels_is_left_out_and_counted(tmp_path: Path, size: tuple[int, int]) -> None:
    kept, report = fly(write(tmp_path, [*good(40), ("dot.png", 0, picture(1, size, "PNG"))]))
    assert len(kept) == 40
    [finding] = report.findings
    assert (finding.kind, finding.rows) == ("too small", 1)
    assert finding.examples == (f"'dot.png': its shorter side has {min(size)} pixels",)


def test_copies_are_kept_and_counted(tmp_path: Path) -> None:
    copies = [(f"copy{n}.jpg", n % 2, picture(n)) for n in range(30)]
    kept, report = fly(write(tmp_path, [*good(70), *copies]))
    assert len(kept) == 100
    [finding] = report.findings
    assert (finding.kind, finding.policy, finding.rows, finding.share) == ("copies", "kept", 30, 0.3)
    assert str(finding) == "copies: 30 rows (30.0%), kept, for example 'copy0.jpg': the same file as '0.jpg'"


def test_mostly_copies_stop_the_run(tmp_path: Path) -> None:
    copies = [(f"copy{n}.jpg", 0, picture(0)) for n in range(30)]
    with pytest.raises(DatasetError, match=r"75\.0% of the rows are copies.*list each picture once"):
        fly(write(tmp_path, [*good(10), *copies]))


def test_one_picture_under_two_labels_is_left_out_under_both(tmp_path: Path) -> None:
    kept, report = fly(write(tmp_path, [*good(60), ("again.jpg", 1, picture(0))]))
    assert len(kept) == 59
    assert report.left_out == ("0.jpg", "again.jpg")
    [finding] = report.findings
    assert (finding.kind, finding.policy, finding.rows) == ("two labels", "left out", 2)
    assert "labelled 0" in finding.examples[0]


def test_a_class_that_is_all_corrupt_stops_the_run(tmp_path: Path) -> None:
    rows = [(f"{n}.jpg", 0, picture(n)) for n in range(40)]
    with pytest.raises(DatasetError, match="no row with label 1 can be used"):
        fly(write(tmp_path, [*rows, ("bad.jpg", 1, CORRUPT["text"])]))


def test_a_missing_file_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.csv, line 6: .*'gone\.jpg' is not in"):
        read_dataset(write(tmp_path, [*good(4), ("gone.jpg", 1, None)]))


@pytest.mark.parametrize("label", [2, -1, "roadwork", "", "0.5"])
def test_a_wrong_label_stops_the_run_and_names_the_line(tmp_path: Path, label: object) -> None:
    with pytest.raises(DatasetError, match=r"labels\.csv, line 6: label"):
        read_dataset(write(tmp_path, [*good(4), ("odd.jpg", label, picture(9))]))


def test_a_class_without_rows_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no row with label 1; both classes are needed"):
        read_dataset(write(tmp_path, [("0.jpg", 0, picture(0))]))


def test_a_class_that_train_lacks_stops_the_run() -> None:
    rows = Dataset(Path("data"), tuple(Row(image=f"{n}", label=0, group=f"{n}") for n in range(5)))
    with pytest.raises(DatasetError, match="train would have 0 roadwork images of 5: too few groups; add data"):
        check_classes("train", rows)


def test_a_file_that_goes_away_meanwhile_is_named(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, good(4)))
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"mounted.*'2\.jpg': it cannot be read \(No such file"):
        run_preflight(data, PREPROCESS, SETTINGS)


def test_everything_at_once_is_one_report(tmp_path: Path) -> None:
    rows = [*good(96), ("copy.jpg", 1, picture(1)), ("bad.jpg", 0, b"?"), ("dot.png", 1, picture(5, (1, 1), "PNG"))]
    kept, report = fly(write(tmp_path, rows))
    assert {finding.kind: finding.rows for finding in report.findings} == {"unreadable": 1, "too small": 1, "copies": 1}
    assert len(kept) == 97
    report.write(tmp_path / "preflight.json")
    assert PreflightReport.read(tmp_path / "preflight.json") == report


def test_an_image_over_a_limit_of_serving_is_unreadable() -> None:
    look = look_at(picture(0), PREPROCESS.model_copy(update={"max_pixels": 100}))
    assert look.problem == "the image is 64 x 48, the limit is 100 pixels"


def test_few_examples_stand_for_many() -> None:
    data = Dataset(Path("data"), tuple(Row(image=f"{n:03}", label=n % 2, group=f"{n}") for n in range(100)))
    looks = {row.image: Look(f"{n}", side_px=64 * (n > 50)) for n, row in enumerate(data.rows)}
    report = judge(data, looks, SETTINGS)
    assert report.findings[0].rows == 51
    assert len(report.findings[0].examples) == 5
    with pytest.raises(DatasetError, match=r"51\.0% of the rows"):
        check(data, report, SETTINGS)


def test_one_missing_image_in_a_hundred_is_left_out_counted_and_named(tmp_path: Path) -> None:
    rows = [(name, label, None if name == "7.jpg" else content) for name, label, content in good(200)]
    kept, report = fly(write(tmp_path, rows))
    assert (len(kept), report.rows, report.left_out) == (199, 200, ("7.jpg",))
    [finding] = report.findings
    assert str(finding) == "missing: 1 rows (0.5%), left out, for example '7.jpg': it is not there"


def test_an_image_that_goes_or_is_locked_while_they_are_checked_is_left_out_as_well(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, good(200)))
    (tmp_path / "7.jpg").unlink()
    _, report = run_preflight(data, PREPROCESS, SETTINGS)
    assert report.left_out == ("7.jpg",)
    assert "it cannot be read (No such file or directory)" in str(report.findings[0])


@pytest.mark.parametrize("gone", [3, 200])
def test_more_missing_images_are_a_disk_that_is_not_there(tmp_path: Path, gone: int) -> None:
    rows = good(200)
    root = write(tmp_path, rows)
    for name, *_ in rows[:gone]:
        (root / name).unlink()
    told = rf"{gone} of 200 listed images are not there or cannot be read, and up to 1% of them are left out.*mounted"
    with pytest.raises(DatasetError, match=told):
        read_dataset(root)
    for name, _, content in rows:
        (root / name).write_bytes(content or b"")
    data = read_dataset(root)
    for name, *_ in rows[:gone]:
        (root / name).unlink()
    with pytest.raises(DatasetError, match=told):
        run_preflight(data, PREPROCESS, SETTINGS)


def test_other_missing_images_are_other_data(tmp_path: Path) -> None:
    """They are named in the report, so the stage that writes it must run again."""
    root = write(tmp_path, [(f"{n}.jpg", n % 2, None if n == 7 else picture(n)) for n in range(200)])
    before = read_dataset(root)
    assert before.missing == ("7.jpg",)
    (root / "7.jpg").write_bytes(picture(7))
    assert read_dataset(root).sha256 != before.sha256


def test_a_file_is_decoded_once_in_all_nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, [*good(6), ("broken.jpg", 1, b"no picture"), ("tiny.png", 0, picture(9, (8, 8), "PNG"))])
    loose = PreflightSettings(most_left_out=1)

    def night(limits: PreprocessSettings = PREPROCESS) -> tuple[PreflightReport, int]:
        decoded: list[int] = []

        def counted(content: bytes, settings: PreprocessSettings) -> Image.Image:
            decoded.append(1)
            return upright(content, settings)

        monkeypatch.setattr(file_looks, "upright", counted)
        data = with_contents(read_dataset(root), tmp_path / "w")
        return run_preflight(data, limits, loose, cache=tmp_path / "w" / "looks.json")[1], len(decoded)

    (tmp_path / "w").mkdir()
    first, decoded = night()
    assert decoded == 8
    assert night() == (first, 0)
    (root / "3.jpg").write_bytes(picture(33))
    assert night()[1] == 1
    assert night(PREPROCESS.model_copy(update={"max_pixels": 10_000}))[1] == 8
