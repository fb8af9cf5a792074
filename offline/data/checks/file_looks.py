"""What an image file is: its size, or why it cannot be used; kept over the nights by the content of the file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from offline.data.dataset import Dataset
from offline.pipeline.content_key import installed
from stage1.artifacts import sha256_json, write_atomic
from stage1.errors import ImageError
from stage1.image_file import frame_size
from stage1.preprocess import PreprocessSettings, upright

FILE_LOOKS = "file_looks.json"
DECODERS = ("pillow", "simplejpeg")


@dataclass(frozen=True)
class Look:
    """What one file is.

    Attributes:
        sha256: of its bytes.
        side_px: its shorter side; 0 if it cannot be decoded.
        problem: why it cannot be decoded.
        missing: why it cannot be read.
    """

    sha256: str
    side_px: int = 0
    problem: str | None = None
    missing: str | None = None


def look_at(content: bytes, preprocessing: PreprocessSettings) -> Look:
    """Decode one file as serving does; its input is not made, so no setting of that decides what is left out."""
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        upright(content, preprocessing)
        return Look(sha256, side_px=min(frame_size(io.BytesIO(content))))
    except ImageError as error:
        return Look(sha256, problem=str(error))


class KnownLooks:
    """Looks at files, each content once.

    Args:
        cache: the file that remembers them; None for none. Other limits or another decoder begin it anew.
        preprocessing: how training and serving decode.
    """

    def __init__(self, cache: Path | None, preprocessing: PreprocessSettings) -> None:
        self._cache, self._preprocessing = cache, preprocessing
        limits = preprocessing.max_bytes, preprocessing.max_pixels
        self._about = sha256_json([*limits, *(installed(name) for name in DECODERS)])
        self._known = self._read()
        self._written = set(self._known)

    def __contains__(self, content: str) -> bool:
        return content in self._known

    def look(self, data: Dataset, row: str) -> Look:
        """Look at the file of a row."""
        content = data.contents.get(row)
        if content is not None and content in self._known:
            return self._known[content]
        try:
            return look_at(data.file_of(row).read_bytes(), self._preprocessing)
        except OSError as error:
            return Look("", missing=f"it cannot be read ({error.strerror or error})")

    def add(self, looks: Iterable[Look]) -> None:
        """Know looks until they are kept."""
        self._known |= {look.sha256: look for look in looks if look.missing is None}

    def keep(self, looks: Iterable[Look]) -> None:
        """Remember looks."""
        self.add(looks)
        if self._cache is None or self._known.keys() == self._written:
            return
        self._written = set(self._known)
        files = {look.sha256: [look.side_px, look.problem] for look in self._known.values()}
        write_atomic(self._cache, json.dumps({"about": self._about, "files": files}).encode())

    def _read(self) -> dict[str, Look]:
        if self._cache is None:
            return {}
        try:
            content = json.loads(self._cache.read_bytes())
            if content["about"] != self._about:
                return {}
            return {sha256: Look(sha256, int(side), problem) for sha256, (side, problem) in content["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
