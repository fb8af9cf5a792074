"""Rows whose pictures arrive as validators send them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.data.dataset import Dataset
from offline.splits.settings import Split
from offline.stages.common.inputs import rows_of
from offline.stream.sender import sender_of

if TYPE_CHECKING:
    from offline.stages.common.context import Context


def sent_rows_of(context: Context, name: Split) -> Dataset:
    """The rows of a set through the stream that is to be certified.

    For sets that choose, certify or report, and for the rows that fit a judge of features; what trains the model sees
    new views instead.

    Raises:
        DatasetError: the data are not those that were split.
    """
    return rows_of(context, name).sent_by(sender_of(context.config.calibrate_scrc))
