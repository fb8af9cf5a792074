"""What stays of a bundle whose weights were removed: its certificate, its settings, its metrics, and what they cost.

A record is a directory until its rows and its looks are written down elsewhere, and from then on one file, a ZIP of a
few kB: `unzip -p records/BUNDLE.zip config.json` shows what is in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo
from zlib import error as zlib_error

from engines.store.file_names import CALIBRATION, CONFIG, MANIFEST, METRICS, PARAMS, SPEC, SPLITS
from engines.store.model_card import card_path
from engines.store.shared_file import share
from stage1.artifacts import fsync_directory, fsync_tree, write_atomic

RECORDS = "records"
# The rows that it was made of; whoever keeps an account of them elsewhere may remove these two.
ACCOUNT = (SPLITS, CALIBRATION)
KEPT = (MANIFEST, PARAMS, SPEC, CONFIG, METRICS, *ACCOUNT)
CARD = "model_card.json"
PACKED = ".zip"
# What a record's directory is called while it is removed.
GOING = ".packed-"
# What `zipfile` raises for a file with a changed byte.
DAMAGED = (LookupError, ValueError, EOFError, RuntimeError, BadZipFile, zlib_error)


def record_path(root: Path, bundle: str) -> Path:
    """Where a store keeps the record of a bundle that was removed.

    Args:
        root: of the store.
        bundle: its whole id.
    """
    return root / RECORDS / bundle


def record_of(root: Path, bundle: str) -> Path | None:
    """The record of a bundle that was removed: a directory, or the file that it was packed into; None if there is none.

    Args:
        root: of the store.
        bundle: its whole id.
    """
    home = record_path(root, bundle)
    packed = home.with_suffix(PACKED)
    return home if home.is_dir() else packed if packed.is_file() else None


def read_in_record(place: Path, name: str) -> bytes:
    """A file of a bundle, or of the record of one.

    Args:
        place: directory of the bundle or of the record, or a packed record.
        name: of the file.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if place.suffix != PACKED:
        return (place / name).read_bytes()
    try:
        with ZipFile(place) as packed:
            return packed.read(name)
    except DAMAGED as error:
        raise OSError(f"{place}: {name} cannot be read ({error})") from error


def pack_record(home: Path) -> None:
    """Put the files of a record into one, which then takes the place of their directory.

    A process that is killed in between leaves the directory, or both; the directory counts, and is packed again.

    Args:
        home: directory of the record.

    Raises:
        OSError: it cannot be written; the directory stays.
    """
    for leftover in home.parent.glob(f".{home.name}{PACKED}.*.partial"):
        leftover.unlink(missing_ok=True)
    content = io.BytesIO()
    with ZipFile(content, "w", ZIP_DEFLATED) as packed:
        for path in sorted(home.iterdir()):
            # Without times, so that the same files give the same bytes.
            packed.writestr(ZipInfo(path.name), path.read_bytes(), ZIP_DEFLATED)
    write_atomic(home.with_suffix(PACKED), content.getvalue())
    going = home.with_name(f"{GOING}{home.name}")
    shutil.rmtree(going, ignore_errors=True)
    home.rename(going)
    fsync_directory(home.parent)
    shutil.rmtree(going)


def sweep_packed(root: Path) -> None:
    """Remove what processes that were killed have left of records that are packed."""
    for leftover in (root / RECORDS).glob(f"{GOING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def records_of(root: Path) -> list[Path]:
    """Directories of the records of a store that are not packed, by id."""
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
