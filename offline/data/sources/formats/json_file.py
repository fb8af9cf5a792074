"""A JSON file of another program: read within limits, checked against what is known of its format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from offline.data.dataset import Picture
from offline.data.sources.settings import CocoSource, LabelStudioSource
from offline.errors import DatasetError
from stage1.settings import first_problem

Content = TypeVar("Content")
Settings = TypeVar("Settings", CocoSource, LabelStudioSource)

# The annotations of COCO 2017 are 449 MB, with every polygon of 118,000 pictures.
MOST_BYTES = 2**30


class AnnotationFile(Generic[Settings]):
    """A file of labels that another program has written, and the directory of its pictures.

    Args:
        root: the data directory.
        settings: of the source.
        name: what the ids of its rows begin with.
    """

    def __init__(self, root: Path, settings: Settings, name: str) -> None:
        self._settings: Settings = settings
        self._path, self._prefix = root / settings.path, name
        self._images = self._path.parent if settings.images is None else root / settings.images
        self.name, self.train_only = str(self._path), settings.train_only
        self.pictures: dict[str, Picture] = {}

    @contextmanager
    def _entry(self, what: str) -> Iterator[None]:
        """Within it, an error says of which entry of the file it is.

        Raises:
            DatasetError: in place of what was raised.
        """
        try:
            yield
        except ValidationError as error:
            problem = first_problem(error, otherwise="the row")
            raise DatasetError(f"{self.name}: {what}: {problem}") from error
        except DatasetError as error:
            raise DatasetError(f"{self.name}: {what}: {error}") from error


def read_json(path: Path, kind: TypeAdapter[Content], what: str) -> Content:
    """What is in a JSON file.

    Args:
        path: the file.
        kind: what must be in it.
        what: what to call the format.

    Raises:
        DatasetError: it cannot be read, is larger than `MOST_BYTES`, is no JSON, or lacks what the format has.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DatasetError(
                f"{path}: has {size / 2**30:.1f} GiB, the limit is {MOST_BYTES / 2**30:.0f} GiB; export it in parts, "
                "each a source of its own"
            )
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        raise DatasetError(f"{path}: is not {what}: {first_problem(error, otherwise='the file')}") from error


def said_of(extra: dict[str, object] | None) -> dict[str, str]:
    """The single values among what else an entry says, as text."""
    return {
        name: str(value)
        for name, value in (extra or {}).items()
        if isinstance(value, str | int | float) and str(value).strip()
    }
