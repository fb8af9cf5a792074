"""`labels.csv`, one source of labelled images."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from offline.data.dataset import LABELS_FILE, Dataset, Row
from offline.errors import DatasetError

KNOWN_COLUMNS = ("image", "label", "group", "source")


def read_dataset(root: Path) -> Dataset:
    """Read and check `labels.csv`.

    Columns `image` and `label` are needed, `group` and `source` are used if present, all others become metadata.

    Args:
        root: the data directory.

    Raises:
        DatasetError: no such file, a missing column, a bad row (with its line number), a duplicate, or a missing image.
    """
    path = root / LABELS_FILE
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            columns = reader.fieldnames or []
            missing = [name for name in ("image", "label") if name not in columns]
            if missing:
                raise DatasetError(
                    f"{path}: column {' and '.join(missing)} missing; it has {', '.join(columns) or 'none'}"
                )
            rows = tuple(_row(path, reader.line_num, record) for record in reader)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); a data directory holds labels.csv") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a UTF-8 CSV file: {error}") from error
    _check(path, rows)
    return Dataset(root, rows)


def _row(path: Path, line: int, record: dict[str, str | None]) -> Row:
    image = (record.get("image") or "").strip()
    own_group = str(PurePosixPath(image))
    metadata = {key: value for key, value in record.items() if key and key not in KNOWN_COLUMNS and value}
    try:
        return Row(
            image=image,
            label=int(record.get("label") or ""),
            group=(record.get("group") or "").strip() or own_group,
            source=(record.get("source") or "").strip(),
            metadata=metadata,
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise DatasetError(f"{path}, line {line}: {problem['loc'][0]}: {problem['msg']}") from error
    except ValueError as error:
        raise DatasetError(f"{path}, line {line}: label is {record.get('label')!r}, expected 0 or 1") from error


def _check(path: Path, rows: tuple[Row, ...]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.image in seen:
            raise DatasetError(f"{path}: {row.image!r} is listed twice")
        seen.add(row.image)
        if not (path.parent / row.image).is_file():
            raise DatasetError(f"{path}: image {row.image!r} is not in {path.parent}")
    for label in (0, 1):
        if not any(row.label == label for row in rows):
            raise DatasetError(f"{path}: no row with label {label}; both classes are needed")
