"""What is known of kept images as a table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from miner.cli.harvest.metadata_table import write_parquet
from stage1.errors import SettingsError
from tests.miner.harvest.test_harvest import NOON, kept, random_one


def test_a_table_says_what_the_store_knows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [kept(0, picture=2**64 - 1, reasons=("deferred", "disagree"), stage2_probability=0.9)]
    images += [random_one(1, gone=True), kept(2)]
    path = tmp_path / "harvest.parquet"
    assert write_parquet(images, {images[1].sha256: 1}, [images[2].sha256, images[0].sha256], path) == 3
    rows = parquet.read_table(path).to_pylist()
    assert [(row["label"], row["rank"], row["gone"]) for row in rows] == [
        (None, 2, False),
        (1, None, True),
        (None, 1, False),
    ]
    assert rows[0]["reasons"] == ["deferred", "disagree"]
    assert rows[0]["picture_hash"] == "f" * 16
    assert rows[0]["path"] == f"images/{images[0].sha256[:2]}/{images[0].sha256}.jpg"
    assert rows[1]["path"] is None
    assert rows[0]["at"] == NOON


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"pip install 'streetvision-cascade\[parquet\]'"):
        write_parquet([], {}, [], tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())
