"""Kept images on disk: content-addressed, bounded in bytes and by place, the oldest of the commonest reason first out.

images/AB/SHA256.jpg    the pictures
index.jsonl             a line for each, also for those drawn at random whose picture is gone
labels.jsonl            what people said, by hash
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from miner.harvest.kept_image import KeptImage
from stage1.artifacts import append_line, append_lines, write_atomic
from stage1.monitor.audit import ExitLabel

T = TypeVar("T", bound=BaseModel)
INDEX, LABELS, IMAGES = "index.jsonl", "labels.jsonl", "images"
# Pictures of one place that differ in fewer bits show the same.
SAME_BITS = 4
# Room is made for more than one picture at a time.
ROOM_SHARE = 0.95


class GivenLabel(BaseModel):
    """One line of `labels.jsonl`.

    Attributes:
        sha256: of the picture.
        label: 1 for roadwork.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    label: ExitLabel


class HarvestStore:
    """The store of one state directory.

    Args:
        directory: created if it is not there.
        most_bytes: of all pictures together.
        per_place: pictures of one place, without those drawn at random.
        read_only: leave the index as it is; another process may be writing to it.

    Attributes:
        images: by hash, in the order in which they were kept.
    """

    def __init__(self, directory: Path, *, most_bytes: int, per_place: int, read_only: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._most_bytes = most_bytes
        self._per_place = per_place
        self.images = read_index(directory)
        self._bytes = sum(one.size for one in self.images.values() if not one.gone)
        if not read_only:
            # Without the lines of what is gone.
            write_atomic(directory / INDEX, b"".join(_line(one) for one in self.images.values()))

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return self._bytes

    def keep(self, image: KeptImage, content: bytes) -> bool:
        """Keep an image, unless it is known, or there are enough of its place; one drawn at random always is.

        Returns:
            Whether it was.
        """
        known = self.images.get(image.sha256)
        if known is not None and (known.week or not image.week):
            return False
        if known is None and not image.week and self._enough(image):
            return False
        self._make_room(image.size)
        path = self.path(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        append_line(self.directory / INDEX, image)
        self._bytes += image.size if known is None or known.gone else 0
        self.images[image.sha256] = image
        return True

    def path(self, image: KeptImage) -> Path:
        """Of the picture."""
        return self.directory / IMAGES / image.sha256[:2] / f"{image.sha256}{image.suffix}"

    def _enough(self, image: KeptImage) -> bool:
        there = [one for one in self.images.values() if one.site == image.site and not one.week and not one.gone]
        alike = (
            one.picture is not None
            and image.picture is not None
            and (one.picture ^ image.picture).bit_count() <= SAME_BITS
            for one in there
        )
        return len(there) >= self._per_place or any(alike)

    def _make_room(self, size: int) -> None:
        if self._bytes + size <= self._most_bytes:
            return
        there = [one for one in self.images.values() if not one.gone]
        common = Counter(_main_reason(one) for one in there)
        # What was drawn at random goes last, for its whole week would be of less use.
        order = sorted(there, key=lambda one: (bool(one.week), -common[_main_reason(one)], one.at))
        out = []
        for one in order:
            if self._bytes + size <= self._most_bytes * ROOM_SHARE:
                break
            self.path(one).unlink(missing_ok=True)
            self._bytes -= one.size
            gone = one.model_copy(update={"gone": True})
            out.append(gone)
            self.images[one.sha256] = gone
        append_lines(self.directory / INDEX, out)
        for one in out:
            if not one.week:
                del self.images[one.sha256]


def _main_reason(image: KeptImage) -> str:
    return image.reasons[-1]


def _line(image: KeptImage) -> bytes:
    return (image.model_dump_json() + "\n").encode()


def read_index(directory: Path) -> dict[str, KeptImage]:
    """The images of a store by hash; what is gone and was not drawn at random is left out."""
    found: dict[str, KeptImage] = {}
    for image in _records(directory / INDEX, KeptImage):
        found.pop(image.sha256, None)
        if image.week or not image.gone:
            found[image.sha256] = image
    return found


def read_labels(directory: Path) -> dict[str, ExitLabel]:
    """What people said, by hash; the last word counts."""
    return {one.sha256: one.label for one in _records(directory / LABELS, GivenLabel)}


def add_labels(directory: Path, labels: dict[str, ExitLabel]) -> None:
    """Write what people said."""
    append_lines(directory / LABELS, [GivenLabel(sha256=name, label=label) for name, label in labels.items()])


def _records(path: Path, kind: type[T]) -> Iterator[T]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield kind.model_validate_json(line)
        except ValidationError:
            # It was cut short.
            continue
