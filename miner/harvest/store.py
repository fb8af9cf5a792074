"""Kept images on disk: content-addressed, bounded in bytes, in number and by place.

images/AB/SHA256.jpg    the pictures
index.jsonl             a line for each, also for those whose picture is gone
labels/                 what people said, see `miner.harvest.given_labels`

If there is no room, the oldest of the commonest reason goes first, and what was drawn at random last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from miner.harvest.given_labels import LabelledPictures
from miner.harvest.image_table import ImageTable, Outline
from miner.harvest.kept_image import KeptImage, Reason, forgotten, is_forgotten, joined, lost_draws, not_drawn
from stage1.artifacts import append_lines, records, write_atomic, write_parts

INDEX, IMAGES = "index.jsonl", "images"
# Pictures that differ in fewer bits show the same.
SAME_BITS = 4
# Room is made for more than one picture at a time.
ROOM_SHARE = 0.95
# Lines of the index beside one for each image, before it is written anew.
MOST_STALE = 2000


@dataclass(frozen=True)
class Limits:
    """How much is kept.

    Attributes:
        size: of all pictures together, bytes.
        pictures: number of them; of as many that are gone the lines are kept, so that a label finds its place.
        per_place: pictures of one place, without those drawn at random.
        random_per_place: pictures of one place and one week that were drawn at random.
    """

    size: int
    pictures: int = 20_000
    per_place: int = 3
    random_per_place: int = 30


def by_content(image: KeptImage) -> float:
    """A number in [0, 1) that is the same each time."""
    return int(image.sha256[:13], 16) / 16**13


class HarvestStore:
    """The store of one state directory.

    Args:
        directory: created if it is not there.
        limits: how much is kept.
        rank: a number of each random draw that nobody could foresee; of more draws of a place than are kept, those with
            the lowest numbers stay.
        read_only: leave the index as it is; another process may be writing to it.

    Attributes:
        images: by hash, in the order in which they were kept.
        reasons: for how many pictures each holds.
    """

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        *,
        rank: Callable[[KeptImage], float] = by_content,
        read_only: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._limits = limits
        self._rank = rank
        # What this version cannot read it does not throw away.
        self.images, self._strange = _index(directory)
        self.reasons: Counter[Reason] = Counter()
        self._labelled = LabelledPictures(directory)
        self._bytes = self._number = self._stale = 0
        self._places: dict[int, tuple[str, ...]] = {}
        for one in self.images.values():
            self._count(one)
        if read_only:
            return
        if not self._strange:
            self._remove_strays()
        self._write_index()

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return self._bytes

    @property
    def number(self) -> int:
        """How many pictures there are."""
        return self._number

    def keep(self, image: KeptImage, content: bytes) -> bool:
        """Keep an image, unless there are enough of its place; of one that is known, note what it is kept for as well.

        Returns:
            Whether anything of it was new, and is kept.

        Raises:
            OSError: it could not be written; then it is not kept.
        """
        known = self.images.get(image.sha256)
        wanted = image if known is None else joined(known, image)
        if wanted == known:
            return False
        newly_drawn = bool(wanted.week) and (known is None or not known.week)
        if newly_drawn and not self._drawn_in(wanted):
            return False
        if known is not None and not known.gone:
            self._note([wanted])
            return True
        if not wanted.week and self._enough(wanted):
            return False
        self._make_room(wanted.size)
        path = self.path(wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        try:
            self._note([wanted])
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def path(self, image: KeptImage) -> Path:
        """Of the picture."""
        return self.directory / IMAGES / image.sha256[:2] / f"{image.sha256}{image.suffix}"

    def _enough(self, image: KeptImage) -> bool:
        there = self._of_place(image.site)
        return sum(not one.week for one in there) >= self._limits.per_place or any(_alike(one, image) for one in there)

    def _of_place(self, site: int) -> list[KeptImage]:
        return [self.images[sha256] for sha256 in self._places.get(site, ())]

    def _drawn_in(self, image: KeptImage) -> bool:
        """Whether a random draw is kept; one of its place with a higher number makes way for it.

        What stays is a random part of the draws of a place, whatever they show, so nobody fills a week with one place.
        """
        there = [one for one in self._of_place(image.site) if one.week == image.week]
        if len(there) < self._limits.random_per_place:
            return True
        last = max(there, key=self._rank)
        if self._rank(image) >= self._rank(last):
            return False
        self._labelled.look()
        if last.sha256 in self._labelled:
            # What was labelled early was so for what it shows: as a draw it would stand for more than its share.
            self._note([not_drawn(last)])
            return True
        self._note([forgotten(last)])
        self.path(last).unlink(missing_ok=True)
        return True

    def _make_room(self, size: int) -> None:
        limits = self._limits
        if self._bytes + size <= limits.size and self._number < limits.pictures:
            return
        self._labelled.look()
        there, gone, broken = list[Outline](), list[Outline](), set[str]()
        for one in self.images.outlines():
            if not one.gone:
                there.append(one)
            elif one.sha256 not in self._labelled:
                gone.append(one)
                broken.add(one.week)
        common = Counter(one.main_reason for one in there)
        # What was drawn at random goes last, for its whole week would be of less use; a week of which a picture is gone
        # is worth no more than what was picked.
        there.sort(key=lambda one: (bool(one.week) and one.week not in broken, -common[one.main_reason], one.at))
        out, most = list[Outline](), min(limits.pictures - 1, round(limits.pictures * ROOM_SHARE))
        freed = 0
        for one in there:
            if self._bytes - freed + size <= limits.size * ROOM_SHARE and len(there) - len(out) <= most:
                break
            out.append(one)
            freed += one.size
        going = [self.images[one.sha256].model_copy(update={"gone": True}) for one in out]
        # The index first: a picture without a line is removed at the next start.
        self._note(going)
        for image in going:
            self.path(image).unlink(missing_ok=True)
        self._forget([*gone, *(one for one in out if one.sha256 not in self._labelled)])

    def _forget(self, gone: list[Outline]) -> None:
        """Forget the oldest of those that are gone and that nobody has labelled; that a week lost some stays known."""
        gone = sorted((one for one in gone if one.size and one.sha256 in self.images), key=lambda one: one.at)
        if len(gone) <= self._limits.pictures:
            return
        out = [self.images[one.sha256] for one in gone[: len(gone) - round(self._limits.pictures * ROOM_SHARE)]]
        lost = {one.week: lost_draws(one) for one in out if one.week}
        # What a week has lost first: a process that is killed between two lines must not make a week look whole.
        self._note([one for one in lost.values() if one.sha256 not in self.images])
        self._note([forgotten(one) for one in out])

    def _note(self, images: list[KeptImage]) -> None:
        """Write lines, and take what they say."""
        append_lines(self.directory / INDEX, images)
        for one in images:
            before = self.images.pop(one.sha256, None)
            # The line before, and one that says that an image is forgotten, tell the next start nothing.
            self._stale += (before is not None) + is_forgotten(one)
            if before is not None and not before.gone:
                self._discount(before)
            if not is_forgotten(one):
                self.images[one.sha256] = one
                self._count(one)
        if self._stale > MOST_STALE + len(self.images):
            # Tried again after as many lines: what was to be told is written, whatever becomes of the others.
            self._stale = 0
            with suppress(OSError):
                self._write_index()

    def _count(self, image: KeptImage) -> None:
        if not image.gone:
            self._bytes += image.size
            self._number += 1
            self.reasons.update(image.reasons)
            self._places[image.site] = (*self._places.get(image.site, ()), image.sha256)

    def _discount(self, image: KeptImage) -> None:
        self._bytes -= image.size
        self._number -= 1
        self.reasons.subtract(image.reasons)
        left = tuple(one for one in self._places.pop(image.site) if one != image.sha256)
        if left:
            self._places[image.site] = left

    def _write_index(self) -> None:
        lines = (image.model_dump_json().encode() for image in self.images.values())
        write_parts(self.directory / INDEX, (line + b"\n" for line in chain(self._strange, lines)))
        self._stale = 0

    def _remove_strays(self) -> None:
        """Remove what a process that was killed has left: parts of files, and pictures without a line.

        A line without a picture, as a disk that fails leaves it, says from now on that the picture is gone.
        """
        known = {self.path(one).name: one for one in self.images.values() if not one.gone}
        for path in (self.directory / IMAGES).glob("*/*"):
            if known.pop(path.name, None) is None:
                path.unlink(missing_ok=True)
        if known:
            self._note([one.model_copy(update={"gone": True}) for one in known.values()])


def _alike(one: KeptImage, other: KeptImage) -> bool:
    if one.picture is None or other.picture is None:
        return False
    return (one.picture ^ other.picture).bit_count() <= SAME_BITS


def read_index(directory: Path) -> ImageTable:
    """The images of a store by hash, in the order in which they were last told of."""
    return _index(directory)[0]


def lines_of_others(directory: Path) -> int:
    """How many lines another version has written, which this one cannot read."""
    return len(_index(directory)[1])


def _index(directory: Path) -> tuple[ImageTable, list[bytes]]:
    """The images, and the lines of another version."""
    found, strange = ImageTable(), list[bytes]()
    for image in records(directory / INDEX, KeptImage):
        if isinstance(image, bytes):
            strange.append(image)
            continue
        found.pop(image.sha256, None)
        if not is_forgotten(image):
            found[image.sha256] = image
    return found, strange
