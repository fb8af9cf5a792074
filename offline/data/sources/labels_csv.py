"""`labels.csv`, one source of labelled images."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from offline.data.dataset import Row
from offline.errors import DatasetError
from stage1.settings import first_problem

LABELS_FILE = "labels.csv"
KNOWN_COLUMNS = ("image", "label", "group", "source")


class LabelsCsv:
    """A `labels.csv`: columns `image` and `label` are needed, `group` and `source` are used, all others are metadata.

    Args:
        path: the file.
    """

    train_only = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`.

        Raises:
            DatasetError: the file cannot be read, a column is missing, or a row is bad, with its line number.
        """
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as handle:
                reader = csv.DictReader(handle)
                columns = reader.fieldnames or []
                missing = [name for name in ("image", "label") if name not in columns]
                if missing:
                    raise DatasetError(
                        f"{self.name}: column {' and '.join(missing)} missing; it has {', '.join(columns) or 'none'}"
                    )
                return tuple(_row(self._path, reader.line_num, record) for record in reader)
        except OSError as error:
            raise DatasetError(f"{self.name}: cannot be read ({error.strerror})") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{self.name}: not a UTF-8 CSV file: {error}") from error


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
        raise DatasetError(f"{path}, line {line}: {first_problem(error, otherwise='the row')}") from error
    except ValueError as error:
        raise DatasetError(f"{path}, line {line}: label is {record.get('label')!r}, expected 0 or 1") from error


SOURCE = LabelsCsv
