"""The model card beside a bundle: what NATIX reads, and the age of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from engines.errors import StoreError
from engines.store.archive import export_bundle, import_bundle
from engines.store.bundle import Provenance
from engines.store.model_card import (
    ModelCard,
    age_days,
    card_path,
    next_version,
    read_card,
    submitted_at,
    write_card,
)
from engines.store.store import Store

HOTKEY = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX"
THEN = datetime(2026, 2, 1, tzinfo=UTC)
CARD = ModelCard(version="1.0.7", submitted_by=HOTKEY, submission_time=int(THEN.timestamp()))


@pytest.fixture
def bundle(store: Store, bundle_files: Path, provenance: Provenance) -> str:
    return store.publish(bundle_files, provenance)


def test_it_has_the_fields_that_natix_reads_and_no_other() -> None:
    assert list(json.loads(CARD.to_json())) == [
        "model_name",
        "description",
        "version",
        "submitted_by",
        "submission_time",
    ]


@pytest.mark.parametrize(
    "wrong", [{"version": "1.0"}, {"version": "v1.0.0"}, {"submitted_by": "0xabc"}, {"submission_time": -1}]
)
def test_a_field_that_does_not_fit_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelCard.model_validate(CARD.model_dump() | wrong)


def test_a_card_changes_nothing_of_its_bundle(store: Store, bundle: str, tmp_path: Path) -> None:
    before = store.verify(bundle)
    write_card(store.root, bundle, CARD)
    assert store.verify(bundle) == before
    assert read_card(store.root, bundle) == CARD
    # Another store knows the bundle by the same id, and nothing of the card.
    export_bundle(store, bundle, tmp_path / "bundle.tar")
    there = Store(tmp_path / "there")
    assert import_bundle(there, tmp_path / "bundle.tar") == bundle
    assert read_card(there.root, bundle) is None


def test_a_card_goes_with_its_bundle(store: Store, bundle: str) -> None:
    write_card(store.root, bundle, CARD)
    store.discard(bundle)
    assert not card_path(store.root, bundle).exists()


def test_a_damaged_card_is_told_and_keeps_nobody_from_the_bundle(store: Store, bundle: str) -> None:
    write_card(store.root, bundle, CARD)
    card_path(store.root, bundle).write_text("{")
    with pytest.raises(StoreError, match="not a model card"):
        read_card(store.root, bundle)
    manifest = store.verify(bundle)
    assert submitted_at(store.root, manifest) is None
    assert age_days(store.root, manifest, THEN) is None


def test_the_age_counts_from_the_card_or_else_from_the_publication(store: Store, bundle: str) -> None:
    manifest = store.verify(bundle)
    assert age_days(store.root, manifest, datetime(2026, 1, 11, tzinfo=UTC)) == 10
    write_card(store.root, bundle, CARD)
    assert age_days(store.root, manifest, THEN + timedelta(hours=12)) == 0.5


def test_a_version_is_the_place_in_the_order_of_publication(store: Store, publisher: Callable[..., Callable]) -> None:
    publish = publisher(store)
    bundles = [publish(note, golden_shift=0.0) for note in ("a", "b")]
    assert [next_version(store.root, bundle) for bundle in bundles] == ["1.0.1", "1.0.2"]
    assert next_version(store.root, "0" * 16) == "1.0.0"
