"""Reading the append-only files of a workspace: one JSON record a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from offline.errors import DatasetError
from stage1.artifacts import whole_lines
from stage1.settings import first_problem

Record = TypeVar("Record")


def read_records(path: Path, kind: TypeAdapter[Record]) -> list[Record]:
    """All records of a file, in order; none if there is no file.

    A line that a crash cut short is not JSON and says nothing.

    Raises:
        DatasetError: a whole line is not such a record; the message names the line.
    """
    return list(records(path, kind))


def records(path: Path, kind: TypeAdapter[Record]) -> Iterator[Record]:
    """The records of a file one by one, as `read_records` has them.

    Raises:
        DatasetError: as `read_records`, at the line that is wrong.
    """
    for line in whole_lines(path):
        try:
            yield kind.validate_json(line.text)
        except ValidationError as error:
            problem = first_problem(error, otherwise="the line")
            raise DatasetError(
                f"{path}, line {line.number}: {problem}; it was changed by hand or by another version"
            ) from error
