"""What the stages read: the rows of the sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.store.file_names import SPLITS
from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.splits.settings import EXAMS, Split
from offline.splits.splits_file import Splits

if TYPE_CHECKING:
    from offline.stages.common.context import Context

JUDGING: tuple[Split, ...] = ("val_select", *EXAMS)


def rows_of(context: Context, name: Split) -> Dataset:
    """The rows of a set, each in the group of everything that depends on it.

    Raises:
        DatasetError: the data are not those that were split.
    """
    return splits_of(context).dataset(context.data, name)


def splits_of(context: Context) -> Splits:
    """The sets that the first stage made of the data of this run.

    Raises:
        DatasetError: they are those of other data: a label, a row or a group has changed since.
    """
    splits = Splits.read(context.inputs["splits"] / SPLITS)
    if splits.data_sha256 != context.data.sha256:
        raise DatasetError(
            f"{context.data.root}: these are not the data that were split ({SPLITS} names {splits.data_sha256[:16]}, "
            f"these are {context.data.sha256[:16]}): a label, a row or a group has changed since; run again from splits"
        )
    return splits
