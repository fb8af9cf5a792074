"""What stays of a bundle whose weights were removed: its certificate, its settings, its metrics, and what they cost."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from engines.store.file_names import CALIBRATION, CONFIG, MANIFEST, METRICS, PARAMS, SPEC, SPLITS
from engines.store.model_card import card_path
from engines.store.shared_file import share
from stage1.artifacts import fsync_directory, fsync_tree

RECORDS = "records"
# The rows that it was made of; whoever keeps an account of them elsewhere may remove these two.
ACCOUNT = (SPLITS, CALIBRATION)
KEPT = (MANIFEST, PARAMS, SPEC, CONFIG, METRICS, *ACCOUNT)
CARD = "model_card.json"


def record_path(root: Path, bundle: str) -> Path:
    """Where a store keeps the record of a bundle that was removed.

    Args:
        root: of the store.
        bundle: its whole id.
    """
    return root / RECORDS / bundle


def records_of(root: Path) -> list[Path]:
    """Directories of all records of a store, by id."""
    home = root / RECORDS
    return sorted(path for path in home.glob("[!.]*") if path.is_dir()) if home.is_dir() else []


def keep_record(root: Path, directory: Path) -> None:
    """Keep the record of a bundle; it appears complete and flushed, instead of one that is there.

    Args:
        root: of the store.
        directory: of the bundle.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    home = root / RECORDS
    home.mkdir(parents=True, exist_ok=True)
    for leftover in home.glob(".record-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh, place = home / f".record-{os.getpid()}-{secrets.token_hex(4)}", home / directory.name
    fresh.mkdir()
    try:
        for name in KEPT:
            with contextlib.suppress(FileNotFoundError):
                share(directory / name, fresh / name)
        with contextlib.suppress(FileNotFoundError):
            share(card_path(root, directory.name), fresh / CARD)
        fsync_tree(fresh)
        if place.exists():
            shutil.rmtree(place)
        fresh.rename(place)
        fsync_directory(home)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
