"""The rows that a stage sees: some sets, and of each row only what the stage declares to read.

A column that is not declared is not there. The hash of what is there is in the key of the stage, so a label that
nobody trains on trains nobody again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from engines.store.file_names import SPLITS
from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError, PipelineError
from offline.pipeline.settings_view import ALL, only
from offline.splits.settings import Split
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.artifacts import sha256_json
from stage1.column_names import columns_called

Column = Literal["label", "group", "source", "train_only"]


class SeenRow(Row):
    """A row of which only some columns are there.

    Attributes:
        named: columns of the metadata that are there, by the names that were declared; `*` for all.
    """

    named: tuple[str, ...] = ()

    def about(self, column: str, known: Collection[str] = ()) -> str | None:
        """See `Row.about`.

        Raises:
            PipelineError: the column is not declared.
        """
        if ALL not in self.named and column not in self.named:
            raise PipelineError(f"the column {column!r} is read, and what the stage reads does not name it")
        return super().about(column, known)


@dataclass(frozen=True)
class Seen:
    """What is seen of the rows of a set, beside their ids and pictures.

    Attributes:
        columns: their own columns.
        metadata: columns of the metadata, as `Row.about` takes them; `*` for all.
    """

    columns: tuple[Column, ...] = ()
    metadata: tuple[str, ...] = ()

    def row(self, row: Row, group: str) -> SeenRow:
        """A row with what is seen of it."""
        given = {"label": row.label, "group": group, "source": row.source, "train_only": row.train_only}
        # How a picture is seen depends on it, and every stage that sees a row may see its picture.
        values: dict[str, Any] = {"image": row.image, "as_sent": row.as_sent}
        values |= {name: given[name] for name in self.columns}
        every = tuple(row.metadata)
        names = every if ALL in self.metadata else [n for c in self.metadata for n in columns_called(c, every)]
        values |= {"metadata": {name: row.metadata[name] for name in names}, "named": self.metadata}
        return only(SeenRow, values)

    def entry(self, row: SplitRow) -> SplitRow:
        """An entry of a set with what is seen of it."""
        values: dict[str, Any] = {"row": row.row, "sha256": row.sha256}
        values |= {name: getattr(row, name) for name in ("group", "label") if name in self.columns}
        return only(SplitRow, values)


PICTURES = Seen()
LABELLED = Seen(("label", "group"))


@dataclass(frozen=True)
class SeenRows(Dataset):
    """The rows that a stage sees.

    Attributes:
        splits: the sets and what else is seen of `splits.json`.
        parts: hash of each part of what is seen.
    """

    splits: Splits | None = None
    parts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Hash of all that is seen."""
        return sha256_json(dict(self.parts))


@dataclass(frozen=True)
class RowsOf:
    """Which rows a stage sees, and what of them.

    Attributes:
        sets: what is seen of each set; a set that is not named is not there.
        facts: fields of `splits.json` that are seen as well, such as `folds`, or an entry of one, as `places.test`.
    """

    sets: Mapping[Split, Seen]
    facts: tuple[str, ...] = ()

    def __call__(self, data: Dataset, inputs: Mapping[str, Path]) -> SeenRows:
        """The rows.

        Args:
            data: all of them.
            inputs: directory of each stage by its name, `splits` among them if any set is seen.

        Raises:
            DatasetError: the splits are of other data: a label, a row or a group has changed since.
        """
        if not self.sets and not self.facts:
            return SeenRows(data.root, ())
        splits = splits_in(inputs["splits"] / SPLITS)
        if splits.data_sha256 != data.sha256:
            raise DatasetError(
                f"{data.root}: these are not the data that were split ({SPLITS} names {splits.data_sha256[:16]}, "
                f"these are {data.sha256[:16]}): a label, a row or a group has changed since; run again from splits"
            )
        chosen = {name: splits.sets[name].rows for name in self.sets}
        data.pick([entry.row for entries in chosen.values() for entry in entries])
        rows = {
            name: tuple(seen.row(data.by_id[entry.row], entry.group) for entry in chosen[name])
            for name, seen in self.sets.items()
        }
        entries = {name: tuple(map(seen.entry, chosen[name])) for name, seen in self.sets.items()}
        sets = {name: only(SplitSet, {"rows": found}) for name, found in entries.items()}
        facts = {name: _fact(splits, name) for name in self.facts}
        return SeenRows(
            **{name: value for name, value in vars(data).items() if name in Dataset.__dataclass_fields__}
            | {"rows": tuple(row for found in rows.values() for row in found)},
            splits=only(
                Splits, {"sets": sets, **{name: value for fact in facts.values() for name, value in fact.items()}}
            ),
            parts={
                **{name: _hash(rows[name], entries[name]) for name in self.sets},
                **{name: sha256_json(to_jsonable_python(fact)) for name, fact in facts.items()},
            },
        )


def splits_in(path: Path) -> Splits:
    """The sets in a file; read once while the file is the same."""
    try:
        state = path.stat()
    except OSError:
        return Splits.read(path)
    return _read(path, (state.st_size, state.st_mtime_ns, state.st_ino))


@lru_cache(maxsize=4)
def _read(path: Path, _state: tuple[int, ...]) -> Splits:
    return Splits.read(path)


def _fact(splits: Splits, name: str) -> dict[str, Any]:
    """A field of the splits by its name, or with one of its entries alone."""
    whole, _, entry = name.partition(".")
    value = getattr(splits, whole)
    return {whole: {key: inside for key, inside in value.items() if key == entry} if entry else value}


def _hash(rows: Iterable[Row], entries: Iterable[SplitRow]) -> str:
    seen = [
        # As programs have it that know no rows that callers sent.
        [row.model_dump(mode="json", exclude={"named"} if row.as_sent else {"named", "as_sent"}), entry.sha256]
        for row, entry in zip(rows, entries, strict=True)
    ]
    return sha256_json(seen)
