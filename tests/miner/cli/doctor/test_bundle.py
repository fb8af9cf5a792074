"""The live bundle as `cascade doctor` sees it: loaded as a miner loads it, and asked about one image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engines.live.load.load_bundle import CheckedBundle
from engines.store.file_names import ENGINE
from engines.store.model_card import ModelCard, card_path, write_card
from engines.store.store import Store
from miner.assembly import follower_of
from miner.cli.doctor import bundle
from miner.cli.doctor.diagnosis import Finding
from miner.cli.doctor.machine import memory
from miner.settings import MinerSettings, load_settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
Publish = Callable[..., str]


def settings_of(store: Store, tmp_path: Path, **changes: Any) -> MinerSettings:
    return load_settings(None, {"store": str(store.root), "state": str(tmp_path / "state"), **changes})


def served(settings: MinerSettings, *, beside_a_miner: bool = False) -> dict[str, Finding]:
    checked = bundle.checked_bundle(settings)
    assert isinstance(checked, CheckedBundle)
    found = asyncio.run(bundle.serving(settings, checked, beside_a_miner=beside_a_miner))
    return {each.check: each for each in [*bundle.certificate(checked), *found]}


def test_a_bundle_that_is_well_is_told_part_by_part(store: Store, publish: Publish, tmp_path: Path) -> None:
    publish("a")
    found = served(settings_of(store, tmp_path))
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(
        ("bundle", "certificate", "engine", "golden images", "test image"), "ok"
    )
    assert found["certificate"].detail.startswith("CERTIFIED for stream mixture: ")
    assert "confidence" in found["certificate"].detail
    assert found["engine"].detail.startswith("onnxruntime")
    assert "answered in " in found["test image"].detail
    assert "decoding" in found["test image"].detail


def test_it_is_loaded_for_the_batches_and_with_the_engine_that_the_miner_has(
    store: Store, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may have the memory for these batches, and not for larger ones."""
    publish("a")
    seen: list[int] = []
    real = follower_of

    def follower(settings: MinerSettings, *given: Any) -> Any:
        made = real(settings, *given)
        seen.append(made._loader._options.most)
        return made

    monkeypatch.setattr(bundle, "follower_of", follower)
    served(settings_of(store, tmp_path, **{"engine.batch.max_batch": 3}))
    assert seen == [3]


def test_a_store_without_a_bundle_and_a_bundle_that_is_damaged_are_errors(
    store: Store, publish: Publish, tmp_path: Path
) -> None:
    settings = settings_of(store, tmp_path)
    none = bundle.checked_bundle(settings)
    assert isinstance(none, Finding)
    assert (none.verdict, none.todo) == ("error", "run `cascade retrain`")
    name = publish("a")
    file = store.path(name) / ENGINE
    file.chmod(0o644)
    file.write_bytes(b"another")
    damaged = bundle.checked_bundle(settings)
    assert isinstance(damaged, Finding)
    assert (damaged.verdict, ENGINE in damaged.detail) == ("error", True)


def test_memory_is_for_two_engines_or_for_one_beside_the_miner(
    store: Store, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a")
    settings = settings_of(store, tmp_path)
    checked = bundle.checked_bundle(settings)
    assert isinstance(checked, CheckedBundle)
    verdicts = []
    for free_mib in (100_000, 150, 1):
        monkeypatch.setattr("miner.cli.doctor.machine.available_bytes", lambda free_mib=free_mib: free_mib * 2**20)
        told = [memory(settings, checked, beside_a_miner=beside)[0].verdict for beside in (False, True)]
        verdicts.append(told)
    assert verdicts == [["ok", "ok"], ["warning", "ok"], ["error", "error"]]
    monkeypatch.setattr("miner.cli.doctor.machine.available_bytes", lambda: None)
    assert memory(settings, checked, beside_a_miner=True)[0].verdict == "warning"


def test_an_engine_that_finds_no_memory_is_no_error_beside_a_miner(
    store: Store, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a")
    real = follower_of

    def poor(settings: MinerSettings, *given: Any) -> Any:
        made = real(settings, *given)
        object.__setattr__(made._loader._options, "memory", lambda: 1)
        return made

    monkeypatch.setattr(bundle, "follower_of", poor)
    settings = settings_of(store, tmp_path)
    assert served(settings)["engine"].verdict == "error"
    assert served(settings, beside_a_miner=True)["engine"].verdict == "warning"


@pytest.mark.parametrize(
    ("days", "verdict", "told"),
    [
        (1, "ok", "1.0 days; a model is paid in full"),
        (85, "warning", "which end soon"),
        (99, "warning", "are over"),
    ],
)
def test_the_age_of_the_live_model_is_told(
    store: Store, publish: Callable[..., str], days: int, verdict: str, told: str
) -> None:
    settings = load_settings(None, {"store": str(store.root)})
    assert bundle.model_age(settings, NOW) == []
    name = publish("a")
    since = NOW - timedelta(days=days)
    write_card(store.root, name, ModelCard(version="1.0.1", submission_time=int(since.timestamp())))
    [found] = bundle.model_age(settings, NOW)
    assert (found.verdict, told in found.detail) == (verdict, True)
    card_path(store.root, name).write_text("{")
    [found] = bundle.model_age(settings, NOW)
    assert (found.verdict, "not known" in found.detail) == ("warning", True)
