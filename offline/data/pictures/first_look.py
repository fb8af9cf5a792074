"""The one time that a file is decoded: its fingerprint, its smaller copy and the pixels that judge come of it at once.

It runs before the stages of a night, on the rows that no night has seen, and fills what the stages read: fingerprints,
copies and pixels of the workspace. None of it decides an outcome. What is missing later, because somebody removed it or
a setting has changed, is made again when it is wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from PIL import Image

from engines.machine.cores import usable_cores
from offline.data.checks.file_looks import FILE_LOOKS, KnownLooks, Look
from offline.data.checks.fingerprints import (
    FINGERPRINTS,
    Fingerprint,
    file_key,
    fingerprint_of,
    known_files,
    record_of,
)
from offline.data.dataset import Dataset, Sender
from offline.data.originals import Copies
from offline.data.pictures.pixel_store import GROUP, PixelStore
from offline.data.pictures.slots import forget_old
from offline.stream.sender import StreamSender
from stage1.artifacts import append_lines
from stage1.certificate.stream import era_shares
from stage1.errors import ImageError
from stage1.preprocess import Pixels, PreprocessSettings, preprocess, preprocess_picture, upright

Tell = Callable[[int, int, str], None]
# So many records for a row, and so old, pixels are decoded again: then most may be of pictures that are gone.
MOST_FOR_A_ROW, RENEWED_DAYS = 2, 90


@dataclass(frozen=True)
class Places:
    """Where a workspace keeps what is made of pictures.

    Attributes:
        workspace: holds the fingerprints.
        pixels: directory of pixels.
        originals: directory of copies.
    """

    workspace: Path
    pixels: Path
    originals: Path


@dataclass(frozen=True)
class Seen:
    """What came of one decoding.

    Attributes:
        row: id of the row.
        look: what its file is.
        fingerprint: of its file.
        pixels: as an engine sees them when the picture is sent; None where they are not wanted.
    """

    row: str
    look: Look
    fingerprint: Fingerprint
    pixels: Pixels | None


def keep_pictures(
    data: Dataset,
    settings: PreprocessSettings,
    sender: Sender,
    places: Places,
    tell: Tell = lambda *_: None,
    *,
    now: datetime | None = None,
) -> Dataset:
    """The same rows with everything that is kept of their pictures; files that no night has seen are decoded, once.

    A file that cannot be read or decoded is left to the checks of the first stage, and so is one without a hash.

    Args:
        data: the rows, as they are, with the hashes of their files.
        settings: what engines see of an image, and limits of what is decoded.
        sender: sends the pictures that judge.
        places: of the workspace.
        tell: told of files done, files in all, and a note.
        now: wall-clock time, UTC; pixels of pictures that are gone are forgotten by it. None forgets none.
    """
    if now is not None:
        renewed = (now - timedelta(days=RENEWED_DAYS)).timestamp()
        for view in places.pixels.glob("*"):
            forget_old(view, MOST_FOR_A_ROW * len(data), renewed)
    cache, copies = places.workspace / FINGERPRINTS, Copies(places.originals, settings)
    contents = {row: digest for row in data.ids if (digest := data.contents.get(row)) is not None}
    store = PixelStore(places.pixels, copies, contents, tell)
    sent, known = data.sent_by(sender).keeping(store), KnownLooks(places.workspace / FILE_LOOKS, settings)
    prints = {record.fingerprint.sha256 for record in known_files(cache).values()}
    # Of files with the same content one is enough.
    first = {digest: row for row, digest in reversed(contents.items()) if not (digest in known and digest in prints)}
    missing = sorted(first.values())
    judging = sum(not data.by_id[row].train_only for row in missing)
    room = bool(judging) and store.has_room(judging, settings)
    look = partial(_look, data=data, settings=settings, sender=sender, store=store)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(missing), GROUP):
            some = missing[start : start + GROUP]
            wanted = [room and not data.by_id[row].train_only for row in some]
            found = [seen for seen in pool.map(look, some, wanted) if seen is not None]
            append_lines(cache, [record_of(file_key(data, seen.row), seen.fingerprint) for seen in found])
            pixels = {seen.row: seen.pixels for seen in found if seen.pixels is not None}
            room = room and (not pixels or store.keep(sent, settings, pixels))
            known.add(seen.look for seen in found)
            tell(min(start + GROUP, len(missing)), len(missing), "first look")
    known.keep(())
    return data.keeping(store)


def _look(
    row: str, judges: bool, *, data: Dataset, settings: PreprocessSettings, sender: Sender, store: PixelStore
) -> Seen | None:
    """Read a file and decode it; None if that fails, or if it has changed since it was hashed."""
    try:
        content, digest = data.file_of(row).read_bytes(), store.contents[row]
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        picture = upright(content, settings)
        if not store.copies.is_one(content):
            store.copies.keep(digest, store.copies.drawn(picture))
        as_sent = data.by_id[row].as_sent
        pixels = _seen_when_sent(row, picture, None if as_sent else sender, settings) if judges else None
        return Seen(row, Look(digest, side_px=min(picture.size)), fingerprint_of(digest, picture), pixels)
    except (OSError, ImageError):
        return None


def _seen_when_sent(
    row: str, picture: Image.Image, sender: Sender | None, settings: PreprocessSettings
) -> Pixels | None:
    """What an engine sees of a picture when it is sent, by nobody if it was sent before.

    None if this sender does not send what is decoded already.
    """
    if sender is None:
        return preprocess_picture(picture, settings)
    if not isinstance(sender, StreamSender):
        return None
    if not era_shares(sender.stream, sender.weights):
        return preprocess_picture(picture, settings)
    return preprocess(sender.send(row, picture), settings)
