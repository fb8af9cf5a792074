"""`cascade doctor`: what it says of the live bundle and of the data of the nightly job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.store.store import Store
from miner.cli import doctor
from miner.cli.doctor import data
from miner.settings import MinerSettings, load_settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def roads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_text(
        "image,label,vid_id,source,city\na.jpg,0,7,kaggle,Ulm\nb.jpg,1,7,kaggle,Bonn\n"
    )
    return tmp_path


def settings(roads: Path, **night: Any) -> MinerSettings:
    return load_settings(None, {"retrain.data": roads, "retrain.preset": "tiny", "night": night})


def test_it_says_how_many_rows_there_are_and_what_joins_them(roads: Path) -> None:
    [finding] = data(settings(roads), NOW)
    assert (finding.check, finding.verdict) == ("data", "ok")
    assert finding.detail == (
        "2 rows, 1 with roadwork; columns that join rows: vid_id (1 values); vid_id joins most: 2 rows have '7'; "
        "only metadata: city"
    )


def test_settings_that_match_nothing_are_told(roads: Path) -> None:
    [finding] = data(settings(roads, splits={"train_only": ["Kagle"]}), NOW)
    assert finding.verdict == "failed"
    assert "splits.train_only: no row has the source 'Kagle'; there is kaggle" in finding.detail


def test_data_that_cannot_be_read_are_told(roads: Path) -> None:
    (roads / "a.jpg").unlink()
    [finding] = data(settings(roads), NOW)
    assert finding.failed
    assert "line 2" in finding.detail


def test_without_data_nothing_is_said(roads: Path) -> None:
    assert data(load_settings(None, {"state": roads}), NOW) == []


@pytest.fixture
def bundle_finding(store: Store, publish: Callable[..., str], tmp_path: Path) -> doctor.Finding:
    publish("a")
    chain = {"chain.kind": "offline", "chain.snapshot": str(tmp_path / "no chain")}
    settings = load_settings(None, {"store": str(store.root), "state": str(tmp_path / "state"), **chain})
    found = asyncio.run(doctor.examine(settings))
    return next(each for each in found if each.check == "bundle")


def test_it_says_which_stream_the_certificate_is_for(bundle_finding: doctor.Finding) -> None:
    assert bundle_finding.verdict == "ok"
    assert "CERTIFIED for stream mixture, loads and reproduces" in bundle_finding.detail
