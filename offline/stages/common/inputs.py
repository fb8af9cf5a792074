"""What the stages read: the rows of the sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.data.dataset import Dataset
from offline.errors import PipelineError
from offline.splits.settings import EXAMS, Split
from offline.splits.splits_file import Splits
from offline.stages.common.seen_rows import SeenRows

if TYPE_CHECKING:
    from offline.stages.common.context import Context

JUDGING: tuple[Split, ...] = ("val_select", *EXAMS)


def rows_of(context: Context, name: Split) -> Dataset:
    """The rows of a set, each in the group of everything that depends on it, with what the stage sees of them.

    Raises:
        PipelineError: the stage does not declare to read that set.
    """
    sets = splits_of(context).sets
    if name not in sets:
        raise PipelineError(f"rows of {name} are read, and what the stage reads does not name them")
    return context.data.pick(sets[name].ids)


def splits_of(context: Context) -> Splits:
    """What the stage sees of the sets that the first stage made.

    Raises:
        PipelineError: the stage does not declare to read any.
    """
    if not isinstance(context.data, SeenRows) or context.data.splits is None:
        raise PipelineError("the sets are read, and what the stage reads does not name any")
    return context.data.splits
