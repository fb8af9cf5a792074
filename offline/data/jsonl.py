"""Reading the append-only files of a workspace: one JSON record a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from offline.errors import DatasetError
from stage1.settings import first_problem

Record = TypeVar("Record")


def read_records(path: Path, kind: TypeAdapter[Record]) -> list[Record]:
    """All records of a file, in order; none if there is no file.

    A line that a crash cut short is not JSON and says nothing.

    Raises:
        DatasetError: a whole line is not such a record; the message names the line.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not _whole(line):
            continue
        try:
            records.append(kind.validate_json(line))
        except ValidationError as error:
            problem = first_problem(error, otherwise="the line")
            raise DatasetError(
                f"{path}, line {number}: {problem}; it was changed by hand or by another version"
            ) from error
    return records


def _whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
