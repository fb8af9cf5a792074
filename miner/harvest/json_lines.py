"""Files of records, one line of JSON each."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from stage1.artifacts import whole_lines

T = TypeVar("T", bound=BaseModel)


def records(path: Path, kind: type[T]) -> tuple[list[T], list[bytes]]:
    """The records of a file in order, and the lines of another kind; a line that was cut short is neither."""
    found, strange = [], []
    for line in whole_lines(path):
        try:
            found.append(kind.model_validate_json(line.text))
        except ValidationError:
            strange.append(line.text)
    return found, strange
