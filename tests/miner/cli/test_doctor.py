"""What `cascade doctor` says of the live bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.store.store import Store
from miner.cli import doctor
from miner.settings import load_settings


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
