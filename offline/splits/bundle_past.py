"""What published bundles did with rows: by the `splits.json` of each, or by one file of the store once they are gone.

A bundle names all rows that it was made of, some megabytes, and the next night's bundle names nearly the same ones.
What a night needs of bundles that are gone is which rows ever trained, chose, certified or reported. So the store keeps
each row once for each set that it was in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from offline.data.jsonl import records
from offline.splits.settings import Split
from offline.splits.split_ledger import Home
from stage1.artifacts import append_line
from stage1.errors import ArtifactError
from stage1.settings import first_problem

PAST_ROWS = "past_rows.jsonl"


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


class _KnownRow(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    sha256: str | None = None
    label: int | None = None
    group: str
    split: Split
    fold: int | None = Field(default=None, ge=0)


class _Line(BaseModel):
    """The rows of one bundle that no line before has in the same set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    bundle: str
    rows: tuple[_KnownRow, ...]


_LINES = TypeAdapter(_Line)


def read_past_rows(root: Path) -> dict[str, tuple[PastRow, ...]]:
    """Rows of bundles that are gone by the id of a bundle that used them, oldest first.

    Args:
        root: of the store.

    Raises:
        DatasetError: a line is not one of this file.
    """
    found: dict[str, tuple[PastRow, ...]] = {}
    for line in records(root / PAST_ROWS, _LINES):
        rows = tuple(PastRow(row.row, row.sha256, row.label, row.group, Home(row.split, row.fold)) for row in line.rows)
        found[line.bundle] = (*found.get(line.bundle, ()), *rows)
    return found


def remember_rows(root: Path, bundle: str, rows: Sequence[PastRow]) -> None:
    """Write down what a bundle did with rows, those that are written down already left out.

    Args:
        root: of the store.
        bundle: its id.
        rows: the rows that it was made of.

    Raises:
        DatasetError: a line of the file is damaged.
    """
    known = {_use(row) for before in read_past_rows(root).values() for row in before}
    new = {_use(row): row for row in rows if _use(row) not in known}
    if new:
        told = tuple(
            _KnownRow(
                row=row.row,
                sha256=row.sha256,
                label=row.label,
                group=row.group,
                split=row.home.split,
                fold=row.home.fold,
            )
            for row in new.values()
        )
        append_line(root / PAST_ROWS, _Line(bundle=bundle, rows=told))


def _use(row: PastRow) -> tuple[str, Split]:
    return row.sha256 or row.row, row.home.split
