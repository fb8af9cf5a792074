"""What people said of images, by hash: each import is a file of its own, so that it is there as a whole or not at all.

labels.jsonl            what version 0.1 wrote
labels/AT-RANDOM.jsonl  of one import
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from stage1.artifacts import records, write_atomic
from stage1.monitor.audit import ExitLabel

OLD_LABELS, LABELS = "labels.jsonl", "labels"


class GivenLabel(BaseModel):
    """One line of these files.

    Attributes:
        sha256: of the picture.
        label: 1 for roadwork.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    label: ExitLabel


def read_labels(directory: Path) -> dict[str, ExitLabel]:
    """What people said, by hash; the last word counts.

    Args:
        directory: of the store.
    """
    return {one.sha256: one.label for path in _files(directory) for one in _given(path)}


class LabelledPictures:
    """Which pictures have a label, for a process that asks again and again while others import.

    An import is a file of a name of its own that is there as a whole and never changes, so each is read once.

    Args:
        directory: of the store.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: set[Path] = set()
        self._known: set[bytes] = set()

    def __contains__(self, sha256: str) -> bool:
        """Whether it had one when the files were looked at last."""
        return bytes.fromhex(sha256) in self._known

    def look(self) -> None:
        """Read what has come; all of it where a file is gone.

        Raises:
            OSError: a file cannot be read; it is read the next time.
        """
        there = set(_files(self._directory))
        if not self._read <= there:
            self._read, self._known = set(), set()
        for path in there - self._read:
            self._known.update(bytes.fromhex(one.sha256) for one in _given(path))
            self._read.add(path)


def _files(directory: Path) -> list[Path]:
    return [directory / OLD_LABELS, *sorted((directory / LABELS).glob("*.jsonl"))]


def _given(path: Path) -> Iterator[GivenLabel]:
    return (one for one in records(path, GivenLabel) if isinstance(one, GivenLabel))


def add_labels(directory: Path, labels: Mapping[str, ExitLabel], at: datetime) -> None:
    """Write what people said, all of it or nothing.

    Args:
        directory: of the store.
        labels: by hash.
        at: the time, UTC; of two files the later one counts.

    Raises:
        OSError: it could not be written; nothing of it was.
    """
    folder = directory / LABELS
    folder.mkdir(parents=True, exist_ok=True)
    lines = [GivenLabel(sha256=name, label=label).model_dump_json() + "\n" for name, label in labels.items()]
    write_atomic(folder / f"{at:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}.jsonl", "".join(lines).encode())
