"""Rows that were noted once, and how they are known again: by the content of their file, or else by its path."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from offline.data.dataset import Dataset
from offline.errors import DatasetError


class NotedRow(BaseModel):
    """A row as it was noted.

    Attributes:
        row: its id, which was the path of its image then.
        sha256: hash of its file; None if only the path was noted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class KnownRows:
    """The rows of a data directory.

    Attributes:
        ids: ids of all rows.
        contents: hash of the file of each row, where it was taken.
    """

    ids: Collection[str]
    contents: Mapping[str, str]

    def note(self, ids: Iterable[str]) -> frozenset[NotedRow]:
        """Note some rows, so that they are known again whatever they are called then."""
        return frozenset(NotedRow(row=row, sha256=self.contents.get(row)) for row in ids)

    def among(self, noted: Iterable[NotedRow], ids: Iterable[str]) -> list[str]:
        """Those of some rows that were noted, sorted.

        A row with a noted content was noted, whatever its path was. A path with another content was noted as well, for
        a picture that was exported again is the same picture, unless the noted content lies under another path here.

        Args:
            noted: what was noted, of these rows or of others.
            ids: ids of the rows that are asked about.
        """
        everything = list(noted)
        hashes = {row.sha256 for row in everything} - {None}
        here = set(self.contents.values())
        paths = {row.row for row in everything if row.sha256 is None or row.sha256 not in here}
        return sorted(row for row in ids if self.contents.get(row) in hashes or row in paths)

    def unknowable(self, noted: Iterable[NotedRow]) -> list[str]:
        """Those that may be here under another path, and nobody can tell: only a path was noted, and it is gone."""
        here = set(self.ids)
        return sorted(row.row for row in noted if row.sha256 is None and row.row not in here)


def found_by_content(noted: Iterable[NotedRow], data: Dataset) -> dict[str, str]:
    """The id here of each noted row whose file lies under another path here than it was noted under.

    A row that is under its path is looked for nowhere else. One whose content is nowhere stays with its path, as one of
    which only the path was noted does. Several files with one content stand for as many noted rows, in order of their
    paths, because a directory that is renamed keeps the order.

    Args:
        noted: what was noted.
        data: the rows that are here; a file is read only if it has to be.

    Raises:
        DatasetError: a file cannot be read.
    """
    wanted = {row.row: row.sha256 for row in noted if row.sha256 is not None}
    taken = {row: _content(data, row) for row in sorted(wanted.keys() & data.by_id.keys())}
    missing = {row: content for row, content in wanted.items() if taken.get(row) != content}
    if not missing:
        return {}
    taken |= {row: _content(data, row) for row in data.ids if row not in taken}
    free: dict[str, deque[str]] = {}
    for row in sorted(taken):
        if wanted.get(row) != taken[row]:
            free.setdefault(taken[row], deque()).append(row)
    return {row: free[missing[row]].popleft() for row in sorted(missing) if free.get(missing[row])}


def _content(data: Dataset, row: str) -> str:
    path = data.file_of(row)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
