"""How difficult a picture is, by a frozen scorer: never by tonight's model, which would choose its own exam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

from engines.live.load.load_bundle import load_bundle
from offline.data.checks.fingerprints import SCHEME, Fingerprint
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import run_engine
from offline.data.values import number
from offline.errors import DatasetError
from offline.splits.settings import BundleDifficulty, ColumnDifficulty, Difficulty
from stage1.column_names import column_name

FULL_CONTRAST = 127.5


def difficulties(
    data: Dataset,
    prints: Mapping[str, Fingerprint],
    settings: Difficulty,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[str, dict[str, float]]:
    """Difficulty of every row by its id; larger is more difficult.

    Args:
        data: the rows.
        prints: fingerprints of the rows.
        settings: which scorer.
        progress: where to tell how far it is.

    Returns:
        The scorer's name, which changes when its scores may, and the scores.

    Raises:
        DatasetError: a row has no number in the column.
        BundleRefused: the bundle cannot be loaded.
    """
    if isinstance(settings, ColumnDifficulty):
        return f"column {column_name(settings.column)}", {row.image: _number(row, settings.column) for row in data.rows}
    if isinstance(settings, BundleDifficulty):
        with closing(load_bundle(settings.path)) as bundle:
            outputs = run_engine(bundle.engine, data, bundle.preprocess, progress, "difficulty").outputs
            doubt = 1 - 2 * abs(bundle.calibrator.probability(outputs) - 0.5)
            return f"bundle {bundle.bundle_id}", dict(zip(data.ids, doubt.tolist(), strict=True))
    return f"contrast {SCHEME}", {row.image: 1 - prints[row.image].contrast / FULL_CONTRAST for row in data.rows}


def _number(row: Row, column: str) -> float:
    text = row.about(column)
    found = number(text or "")
    if found is None:
        raise DatasetError(f"row {row.image!r}: column {column!r} is {text!r}, expected a number: its difficulty")
    return found
