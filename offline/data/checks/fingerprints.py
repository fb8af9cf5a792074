"""What a picture is in a few bytes: the hash of its file, a perceptual hash and the contrast of its grey values.

It is taken of the pixels that a model sees: upright, and decoded as for training and serving. A picture is decoded for
it once in its life; the next nights read its fingerprint from the workspace. It is believed as long as the file is the
very same one: many programs that copy keep the time at which a file was changed, but none can keep its inode and the
time at which that was changed. Where only those are others, the file is read and not decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from engines.machine.cores import usable_cores
from offline.data.checks.near_hashes import HASH_BITS
from offline.data.dataset import Dataset, Picture
from offline.errors import DatasetError
from stage1.artifacts import append_lines, records
from stage1.errors import ImageError
from stage1.image_file import decode

FINGERPRINTS = "fingerprints.jsonl"
SCHEME = "phash256-upright90-v2"
# A picture is averaged down until its shorter side has no less than this: noise is no contrast, and neither is size.
SIDE_PX = 90
# Less varied than this in its grey values, a picture shows nothing by which it could be known again.
BLANK_CONTRAST = 1.0
WRITTEN_TOGETHER = 2000


class Fingerprint(BaseModel):
    """What is known of one image file.

    Attributes:
        sha256: hash of its bytes.
        phash: perceptual hash, 64 hex digits; None if the picture is blank.
        contrast: standard deviation of its grey values, 0 to 127.5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    phash: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    contrast: float = Field(ge=0)


class FileKey(NamedTuple):
    """One state of one file; see `CachedFingerprint`."""

    scheme: str
    image: str
    size: int
    mtime_ns: int
    ctime_ns: int | None
    inode: int | None


class CachedFingerprint(BaseModel):
    """One line of `fingerprints.jsonl`.

    Attributes:
        schema_version: version of this record.
        scheme: how the fingerprint was taken; one taken in another way is not used.
        image: path relative to the data directory.
        size: bytes of the file.
        mtime_ns: when the file was last changed, as programs that copy may set it.
        ctime_ns: when its inode was last changed, which the system alone sets; None in a record of version 2.
        inode: number of the inode; None as well.
        fingerprint: of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2, 3] = 3
    scheme: str
    image: str
    size: int
    mtime_ns: int
    ctime_ns: int | None = None
    inode: int | None = None
    fingerprint: Fingerprint

    @property
    def key(self) -> FileKey:
        """What must be the same for the fingerprint to be the file's."""
        return FileKey(self.scheme, self.image, self.size, self.mtime_ns, self.ctime_ns, self.inode)


def fingerprint(path: Picture, known: Mapping[str, Fingerprint] | None = None) -> Fingerprint:
    """Take the fingerprint of an image file.

    Args:
        path: the file.
        known: fingerprints by the hash of the file: what is among them is not decoded.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if known and digest in known:
            return known[digest]
        return fingerprint_of(digest, decode(content))
    except (OSError, ImageError) as error:
        raise DatasetError(f"{path}: {error}") from error


def fingerprint_of(digest: str, picture: Image.Image) -> Fingerprint:
    """The fingerprint of a file that is decoded already.

    Args:
        digest: sha256 of the file.
        picture: RGB, upright, in its own size.
    """
    import imagehash  # noqa: PLC0415  belongs to the extra `train`; reading a split needs none of it

    grey = picture.convert("L")
    grey = grey.reduce(max(1, min(grey.size) // SIDE_PX))
    contrast = float(np.asarray(grey, dtype=np.float64).std())
    if contrast < BLANK_CONTRAST:
        return Fingerprint(sha256=digest, phash=None, contrast=contrast)
    bits = imagehash.phash(grey, hash_size=int(HASH_BITS**0.5)).hash
    return Fingerprint(sha256=digest, phash=np.packbits(bits.reshape(-1)).tobytes().hex(), contrast=contrast)


def fingerprints(
    data: Dataset, cache: Path, progress: Callable[[int, int, str], None] = lambda *_: None
) -> dict[str, Fingerprint]:
    """Fingerprint of every row by its id; only files that are new or replaced are read.

    Args:
        data: the rows.
        cache: the file that remembers fingerprints over the nights; appended to.
        progress: where to tell how far it is.

    Raises:
        DatasetError: an image cannot be read.
    """
    records = known_files(cache)
    known = {key: record.fingerprint for key, record in records.items()}
    by_content = {taken.sha256: taken for taken in known.values()}
    keys = {row.image: file_key(data, row.image) for row in data.rows}
    found = {image: known[key] for image, key in keys.items() if key in known}
    missing = sorted(keys.keys() - found.keys())
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(missing), WRITTEN_TOGETHER):
            images = missing[start : start + WRITTEN_TOGETHER]
            paths = map(data.file_of, images)
            taken = dict(zip(images, pool.map(partial(fingerprint, known=by_content), paths), strict=True))
            append_lines(cache, [record_of(keys[image], taken[image]) for image in images])
            found |= taken
            progress(start + len(images), len(missing), "fingerprints")
    return found


def known_files(cache: Path) -> dict[FileKey, CachedFingerprint]:
    """What a workspace remembers of files by their state, taken as it is taken today.

    Args:
        cache: the file that remembers; need not be there. A line that is damaged or of another version says nothing,
            and its file is read again.
    """
    found: dict[FileKey, CachedFingerprint] = {}
    for record in records(cache, CachedFingerprint):
        if isinstance(record, CachedFingerprint) and record.scheme == SCHEME:
            found[record.key] = record
    return found


def file_key(data: Dataset, image: str) -> FileKey:
    """What tells the state of the file of a row from another one.

    Raises:
        OSError: it is not there.
    """
    return state_key(image, data.file_of(image))


def state_key(name: str, picture: Picture) -> FileKey:
    """What tells the state of a file from another one.

    Args:
        name: of it, in the records.
        picture: the file.

    Raises:
        OSError: it is not there.
    """
    status = picture.stat()
    return FileKey(SCHEME, name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def record_of(key: FileKey, taken: Fingerprint) -> CachedFingerprint:
    """The line that remembers the fingerprint of a file in a state."""
    return CachedFingerprint(**key._asdict(), fingerprint=taken)
