"""A record becomes one small file, and says the same as before."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from engines.store.bundle_record import pack_record, read_in_record, record_of, record_path, records_of

SETTINGS = {"train": {"epochs": 3}}


def record(root: Path, bundle: str) -> Path:
    home = record_path(root, bundle)
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps(SETTINGS))
    (home / "metrics.csv").write_text("name,value\n" + "accuracy,0.9\n" * 500)
    return home


def test_a_packed_record_says_the_same_and_is_small(tmp_path: Path) -> None:
    home = record(tmp_path, "b1")
    before = read_in_record(home, "config.json")
    assert record_of(tmp_path, "b1") == home
    pack_record(home)
    place = record_of(tmp_path, "b1")
    assert place == tmp_path / "records" / "b1.zip"
    assert read_in_record(place, "config.json") == before
    assert records_of(tmp_path) == []
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["b1.zip"]
    assert place.stat().st_size < 1000


def test_one_that_was_cut_short_is_packed_again_to_the_same_bytes(tmp_path: Path) -> None:
    pack_record(record(tmp_path, "b1"))
    content = (tmp_path / "records" / "b1.zip").read_bytes()
    # As if the process had been killed before the directory went.
    home = record(tmp_path, "b1")
    assert record_of(tmp_path, "b1") == home
    pack_record(home)
    assert (tmp_path / "records" / "b1.zip").read_bytes() == content


def test_what_is_not_in_it_is_said(tmp_path: Path) -> None:
    pack_record(record(tmp_path, "b1"))
    place = record_of(tmp_path, "b1")
    assert place is not None
    with pytest.raises(OSError, match=r"b1.zip: splits.json cannot be read"):
        read_in_record(place, "splits.json")
    place.write_bytes(b"damaged")
    with pytest.raises(OSError, match="cannot be read"):
        read_in_record(place, "config.json")
    assert record_of(tmp_path, "b2") is None


def test_a_byte_that_changed_anywhere_is_said(tmp_path: Path) -> None:
    home = record_path(tmp_path, "b1")
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps(SETTINGS))
    said = read_in_record(home, "config.json")
    pack_record(home)
    place = record_of(tmp_path, "b1")
    assert place is not None
    content = place.read_bytes()
    for number, bit in product(range(len(content)), (1, 4, 128)):
        place.write_bytes(content[:number] + bytes([content[number] ^ bit]) + content[number + 1 :])
        with suppress(OSError):
            assert read_in_record(place, "config.json") == said
