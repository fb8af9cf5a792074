"""Labels that others import while a miner runs: each file is read once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from miner.harvest.given_labels import LABELS, OLD_LABELS, LabelledPictures, add_labels, read_labels
from tests.miner.harvest.test_harvest import NOON, kept

FIRST, SECOND, THIRD = (kept(number).sha256 for number in range(3))


def test_a_label_is_known_after_a_look(tmp_path: Path) -> None:
    labelled = LabelledPictures(tmp_path)
    labelled.look()
    add_labels(tmp_path, {FIRST: 1}, NOON)
    assert FIRST not in labelled
    labelled.look()
    assert FIRST in labelled
    add_labels(tmp_path, {SECOND: 0}, NOON + timedelta(days=1))
    labelled.look()
    assert FIRST in labelled
    assert SECOND in labelled
    assert THIRD not in labelled


def test_a_file_is_read_once(tmp_path: Path) -> None:
    labelled = LabelledPictures(tmp_path)
    add_labels(tmp_path, {FIRST: 1}, NOON)
    labelled.look()
    (path,) = (tmp_path / LABELS).iterdir()
    path.write_bytes(b"whoever reads it again finds nothing")
    add_labels(tmp_path, {SECOND: 0}, NOON + timedelta(days=1))
    labelled.look()
    assert FIRST in labelled
    assert SECOND in labelled


def test_where_a_file_is_gone_all_are_read_again(tmp_path: Path) -> None:
    labelled = LabelledPictures(tmp_path)
    add_labels(tmp_path, {FIRST: 1}, NOON)
    labelled.look()
    (path,) = (tmp_path / LABELS).iterdir()
    add_labels(tmp_path, {SECOND: 0}, NOON + timedelta(days=1))
    path.unlink()
    labelled.look()
    assert FIRST not in labelled
    assert SECOND in labelled


def test_it_knows_what_a_reader_knows_after_a_start(tmp_path: Path) -> None:
    (tmp_path / OLD_LABELS).write_text(f'{{"sha256": "{FIRST}", "label": 1}}\n{{"sha256": "cut sho')
    add_labels(tmp_path, {SECOND: 0}, NOON)
    labelled = LabelledPictures(tmp_path)
    labelled.look()
    known = [one for one in (FIRST, SECOND, THIRD) if one in labelled]
    assert known == [FIRST, SECOND] == list(read_labels(tmp_path))
