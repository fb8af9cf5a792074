"""A task: rows with the part that each plays in a fold, for the stages of a night."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from engines.store.file_names import SPLITS
from offline.data.dataset import Dataset
from offline.pipeline.reads import Reads
from offline.pipeline.stage import Stage
from offline.splits.settings import Split
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.artifacts import sha256_file

if TYPE_CHECKING:
    from offline.stages.common.context import Context, NightStage

# Column of the metadata that says which set a row is in.
PART = "part"
PARTS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Task:
    """Data to train and judge on.

    Attributes:
        name: `photographs` or `scenes`.
        title: what a table calls it.
        folds: for each fold, its rows with their parts; a row without one is left out of it.
        unlabelled: frames that domain adaptation sees, whose labels nobody reads; made when they are asked for.
        native_height_px: height of the pictures.
    """

    name: str
    title: str
    folds: tuple[Dataset, ...]
    unlabelled: Callable[[], Dataset]
    native_height_px: int


def in_parts(data: Dataset, parts: Mapping[str, Split]) -> Dataset:
    """Some of the rows, each with the set that it is in.

    Args:
        data: all rows.
        parts: set of each row that is used, by its id.
    """
    rows = (row for row in data.rows if row.image in parts)
    marked = (row.model_copy(update={"metadata": {**row.metadata, PART: parts[row.image]}}) for row in rows)
    return replace(data, rows=tuple(marked))


def part_of(data: Dataset, part: Split) -> Dataset:
    """The rows of a set."""
    return data.pick([row.image for row in data.rows if row.metadata[PART] == part])


def write_splits(context: Context) -> None:
    """Write `splits.json` from the parts that the rows name."""
    sets = {part: _set(part_of(context.data, part)) for part in PARTS}
    folds = (sets["val_calib"].ids,) if sets["val_calib"].rows else ()
    splits = Splits(seed=0, data_sha256=context.data.sha256, sets=sets, folds=folds)
    splits.write(context.out / SPLITS)


def _set(data: Dataset) -> SplitSet:
    rows = tuple(
        SplitRow(row=row.image, group=row.group, label=row.label, sha256=sha256_file(data.path_of(row.image)))
        for row in data.rows
    )
    return SplitSet(rows=rows, groups=len(set(data.groups)), positives=int(data.labels.sum()))


# Takes the place of the stage that draws a split; the others of a night are used as they are.
SPLITS_STAGE: NightStage = Stage(name="splits", needs=(), reads=lambda _: Reads(), run=write_splits)
