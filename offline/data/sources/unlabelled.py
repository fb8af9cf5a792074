"""Unlabelled images for domain adaptation, from directories; what looks like a row that judges is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.machine.cores import usable_cores
from offline.data.checks.fingerprints import (
    CachedFingerprint,
    FileKey,
    fingerprint_of,
    fingerprints,
    known_files,
    record_of,
    state_key,
)
from offline.data.checks.perceptual_hash import near_others, words_of
from offline.data.dataset import Dataset, Picture
from offline.data.originals import Copies
from offline.data.sources.image_paths import PICTURES
from offline.errors import DatasetError
from stage1.artifacts import append_lines
from stage1.errors import ImageError
from stage1.preprocess import upright

READ_TOGETHER = 256


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels.

    Attributes:
        files: to cut from, see `offline.data.originals`.
        unreadable: files that could not be decoded.
        alike: files that look like a row that judges.
    """

    files: tuple[Picture, ...]
    unreadable: int
    alike: int


def read_unlabelled(
    directories: Sequence[Path],
    copies: Copies,
    judged: Sequence[str],
    distance: int,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Unlabelled:
    """All images below some directories that can be decoded.

    A model that has seen a picture, even without its label, knows it better than a new one; so what looks like a row of
    val_select, val_calib or test is left out.

    Args:
        directories: searched with their subdirectories.
        copies: where copies of large ones are.
        judged: perceptual hashes, 64 hex digits, of the rows that judge.
        distance: largest number of bits in which pictures that look alike differ.
        cache: the fingerprints of a workspace: a file that is known there is not decoded again; None for none.
        progress: called with files read, files in all, and a note.

    Raises:
        DatasetError: a directory does not exist, or there is no image in it.
    """
    paths = [path for directory in directories for path in pictures_in(directory)]
    files: list[Picture] = []
    hashes: list[str | None] = []
    unreadable = 0
    known = {} if cache is None else known_files(cache)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(paths), READ_TOGETHER):
            some = paths[start : start + READ_TOGETHER]
            read = [found for found in pool.map(lambda path: _read(path, copies, known), some) if found is not None]
            unreadable += len(some) - len(read)
            files += [file for file, _ in read]
            hashes += [record.fingerprint.phash for _, record in read]
            if cache is not None:
                append_lines(cache, [record for _, record in read if record.key not in known])
            progress(start + len(some), len(paths), "unlabelled images")
    alike = look_alike(hashes, judged, distance)
    kept = tuple(file for file, is_alike in zip(files, alike.tolist(), strict=True) if not is_alike)
    return Unlabelled(kept, unreadable, int(alike.sum()))


def count_images(directory: Path) -> int:
    """Files below a directory that would be read; 0 if there is none."""
    return sum(path.suffix.lower() in PICTURES for path in directory.rglob("*"))


def hashes_of(data: Dataset, cache: Path) -> list[str]:
    """Perceptual hashes of the rows that are not blank.

    Args:
        data: the rows.
        cache: the file that remembers fingerprints.
    """
    return [taken.phash for taken in fingerprints(data, cache).values() if taken.phash is not None]


def pictures_in(directory: Path) -> list[Path]:
    """The pictures below a directory, sorted.

    Raises:
        DatasetError: the directory does not exist, or there is none in it.
    """
    if not directory.is_dir():
        raise DatasetError(
            f"{directory}: no such directory; adapt_domain.images and learn.teacher_images name directories of images"
        )
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise DatasetError(
            f"{directory}: no image in it; a directory of images is read for {', '.join(sorted(PICTURES))}"
        )
    return found


def _read(
    path: Path, copies: Copies, known: Mapping[FileKey, CachedFingerprint]
) -> tuple[Picture, CachedFingerprint] | None:
    """The file to cut from and what is known of it, decoded once so that what is read here can be read later.

    None if it cannot be.
    """
    try:
        key = state_key(str(path.absolute()), path)
        if key in known:
            return copies.of(path), known[key]
        content = path.read_bytes()
        digest, picture = hashlib.sha256(content).hexdigest(), upright(content, copies.settings)
        if not copies.is_one(content):
            copies.keep(digest, copies.drawn(picture))
        return copies.of(path), record_of(key, fingerprint_of(digest, picture))
    except (OSError, ImageError):
        return None


def look_alike(hashes: Sequence[str | None], judged: Sequence[str], distance: int) -> NDArray[np.bool_]:
    """Which of N pictures look like a row that judges, `(N,)`; blank ones look like nothing.

    Args:
        hashes: perceptual hash of each, 64 hex digits, None for a blank one.
        judged: hashes of the rows that judge.
        distance: largest number of bits in which pictures that look alike differ.
    """
    # Copies have the same hash, and are looked for once.
    known = list({one for one in hashes if one is not None})
    near = near_others(words_of(known), words_of(list(set(judged))), distance)
    found = {one for one, is_near in zip(known, near.tolist(), strict=True) if is_near}
    return np.asarray([one in found for one in hashes], np.bool_)
