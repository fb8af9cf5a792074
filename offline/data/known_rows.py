"""Rows that were noted once, and how they are known again: by the content of their file, or else by its path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


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
