"""Another directory with a `labels.csv`, as one of several sources."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from offline.data.dataset import Picture, Row
from offline.data.sources.labels_csv import LABELS_FILE, LabelsCsv
from offline.data.sources.settings import FolderSource


class Folder:
    """A directory of images with a `labels.csv`.

    Args:
        root: the data directory; its own rows keep their ids.
        settings: of the source.
        name: what the ids of rows of another directory begin with.
    """

    def __init__(self, root: Path, settings: FolderSource, name: str) -> None:
        self._home = root / settings.path
        self._prefix = "" if self._home.resolve() == root.resolve() else f"{name}/"
        self._groups = self._prefix if settings.groups is None else f"{settings.groups}/"
        self._labels = LabelsCsv(self._home / LABELS_FILE)
        self.name, self.train_only = self._labels.name, settings.train_only
        self._as_sent = settings.as_sent
        self.pictures: dict[str, Picture] = {}

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`."""
        found = self._labels.rows()
        if self._as_sent:
            found = tuple(row.model_copy(update={"as_sent": True}) for row in found)
        if not self._prefix and not self._groups:
            return found
        members = Counter(row.group for row in found)
        moved = tuple(
            row.model_copy(
                update={
                    "image": self._prefix + row.image,
                    # A group is one of its own directory: drive 7 here is not drive 7 there. A row without one is its
                    # own, in whatever directory; a drive may be called like its first picture.
                    "group": (self._prefix if row.group == row.image and members[row.group] == 1 else self._groups)
                    + row.group,
                    "source": row.source or self._prefix[:-1].lower(),
                }
            )
            for row in found
        )
        self.pictures = {new.image: self._home / old.image for new, old in zip(moved, found, strict=True)}
        return moved
