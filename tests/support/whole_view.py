"""Rows as a stage sees them that declares to read all there is."""

from __future__ import annotations

from pathlib import Path

from offline.data.dataset import Dataset
from offline.pipeline.settings_view import ALL
from offline.splits.settings import SPLITS
from offline.splits.splits_file import Splits
from offline.stages.common.seen_rows import RowsOf, Seen, SeenRows

COLUMNS = Seen(("label", "group", "source", "train_only"), (ALL,))
FACTS = tuple(name for name in Splits.model_fields if name not in {"schema_version", "sets"})


def whole_view(data: Dataset, splits: Path) -> SeenRows:
    """All sets with all columns.

    Args:
        data: the rows.
        splits: directory of `splits.json`.
    """
    return RowsOf(dict.fromkeys(SPLITS, COLUMNS), FACTS)(data, {"splits": splits})
