"""What a published bundle did with rows: its `splits.json`, of this version or of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from offline.splits.settings import Split
from offline.splits.split_ledger import Home
from stage1.errors import ArtifactError
from stage1.settings import first_problem


class _PastRow(BaseModel):
    row: str
    group: str
    sha256: str | None = None
    label: int | None = None


class _PastSet(BaseModel):
    rows: tuple[_PastRow, ...]


class _PastSplits(BaseModel):
    """Of a bundle that serves, whatever program made it: 2 knows no content of rows."""

    model_config = ConfigDict(extra="ignore")

    schema_version: Literal[2, 3]
    sets: dict[Split, _PastSet]
    folds: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PastRow:
    """A row that a bundle was made of.

    Attributes:
        row: id of the row, which is the path of its image then.
        sha256: hash of its file; None in a bundle that does not say.
        label: its label then; None in a bundle that does not say.
        group: its group then.
        home: its set, and in val_calib its fold.
    """

    row: str
    sha256: str | None
    label: int | None
    group: str
    home: Home


def read_past(path: Path) -> tuple[PastRow, ...]:
    """The rows of a `splits.json`.

    Raises:
        ArtifactError: the file is missing, damaged or of another version.
    """
    try:
        splits = _PastSplits.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: {first_problem(error, otherwise='the file')}") from error
    fold = {row: number for number, rows in enumerate(splits.folds) for row in rows}
    return tuple(
        PastRow(
            row=row.row,
            sha256=row.sha256,
            label=row.label,
            group=row.group,
            home=Home(name, fold.get(row.row, 0) if name == "val_calib" else None),
        )
        for name, described in splits.sets.items()
        for row in described.rows
    )


def unseen(rows: Sequence[str], contents: Mapping[str, str], past: Iterable[PastRow], judging: Split) -> list[str]:
    """Those of some rows that another bundle has used for nothing but what they are used for now.

    Args:
        rows: ids of rows of one set.
        contents: hashes of their files, where they are known.
        past: what the other bundle was made of.
        judging: the set.
    """
    seen = [row for row in past if row.home.split != judging]
    ids, hashes = {row.row for row in seen}, {row.sha256 for row in seen if row.sha256 is not None}
    return [row for row in rows if row not in ids and contents.get(row) not in hashes]
