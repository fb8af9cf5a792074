"""What is known of kept images as a table in Parquet, for pandas and the like.

The store itself is lines of JSON: a miner appends to it at every image, a process that is killed loses at most the last
line, and no miner needs pyarrow.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from miner.harvest.kept_image import KeptImage
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError
from stage1.monitor.audit import ExitLabel

EXTRA = "streetvision-cascade[parquet]"


def write_parquet(images: Iterable[KeptImage], labels: Mapping[str, ExitLabel], worth: Sequence[str], to: Path) -> int:
    """Write one row for each image.

    Args:
        images: of the store.
        labels: what people said, by hash.
        worth: hashes of those without a label, the most worth first; their column `rank` begins at 1.
        to: the file.

    Returns:
        How many rows there are.

    Raises:
        SettingsError: pyarrow is not installed.
    """
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SettingsError(f"a table in Parquet needs pyarrow: pip install '{EXTRA}'") from error
    ranks = {name: rank for rank, name in enumerate(worth, start=1)}
    rows = [_row(image, labels.get(image.sha256), ranks.get(image.sha256)) for image in images]
    text, number, real = arrow.string(), arrow.int64(), arrow.float64()
    schema = arrow.schema(
        [
            ("sha256", text),
            ("path", text),
            ("at", arrow.timestamp("us", tz="UTC")),
            ("reasons", arrow.list_(text)),
            ("week", text),
            ("label", number),
            ("rank", number),
            ("site", number),
            ("request_id", text),
            ("hotkey", text),
            ("bundle", text),
            ("exit_label", number),
            ("score", real),
            ("probability", real),
            ("stage2_probability", real),
            # Unsigned 64 bits, in hex.
            ("picture_hash", text),
            ("size", number),
            ("gone", arrow.bool_()),
        ]
    )
    file = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows, schema), file)
    write_atomic(to, file.getvalue())
    return len(rows)


def _row(image: KeptImage, label: ExitLabel | None, rank: int | None) -> dict[str, Any]:
    picture = None if image.picture is None else f"{image.picture:016x}"
    path = f"images/{image.sha256[:2]}/{image.sha256}{image.suffix}"
    known = image.model_dump(exclude={"picture", "suffix", "reasons"})
    return {
        **known,
        "reasons": list(image.reasons),
        "path": None if image.gone else path,
        "label": label,
        "rank": rank,
        "picture_hash": picture,
    }
