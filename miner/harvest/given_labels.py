"""What people said of images, by hash: each import is a file of its own, so that it is there as a whole or not at all.

labels.jsonl            what version 0.1 wrote
labels/AT-RANDOM.jsonl  of one import
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from miner.harvest.json_lines import records
from stage1.artifacts import write_atomic
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
    paths = [directory / OLD_LABELS, *sorted((directory / LABELS).glob("*.jsonl"))]
    return {one.sha256: one.label for path in paths for one in records(path, GivenLabel)[0]}


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
