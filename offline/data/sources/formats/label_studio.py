"""An export of Label Studio in its format JSON: choices for the whole picture, or labels of boxes and areas in it.

Source: https://labelstud.io/guide/export, "Label Studio JSON format of annotated tasks".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.dataset import Row
from offline.data.sources.formats.export_row import export_row
from offline.data.sources.formats.json_file import AnnotationFile, read_json, said_of
from offline.data.sources.image_paths import UPLOADED, ImagePaths
from offline.data.sources.settings import LabelStudioSource
from offline.errors import DatasetError

log = structlog.get_logger(__name__)

LOCAL_FILES, UPLOADS = "/data/local-files/", "/data/upload/"


class _Result(BaseModel):
    type: str
    value: dict[str, Any] = Field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Choices, or labels of a region."""
        found = self.value.get(self.type, [])
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


class _Annotation(BaseModel):
    was_cancelled: bool = False
    result: list[_Result]


class _Task(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: int | str
    data: dict[str, Any]
    annotations: list[_Annotation]


class LabelStudio(AnnotationFile[LabelStudioSource]):
    """An export of Label Studio.

    A task that nobody has annotated, whose annotation chooses nothing or both, or that two people have annotated
    differently, is left out and counted in the log.
    """

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`.

        Raises:
            DatasetError: the file is no such export, a choice is neither of the two, an image is not there or is in two
                tasks.
        """
        what = "an export of Label Studio in its format JSON, a list of tasks with data and annotations"
        tasks = read_json(self._path, TypeAdapter(list[_Task]), what)
        paths, rows, left_out = ImagePaths(self._images), list[Row](), 0
        for task in tasks:
            with self._entry(f"task {task.id}"):
                label = self._label(task)
                if label is None:
                    left_out += 1
                else:
                    rows.append(self._row(task, label, paths))
        if left_out:
            log.warning("tasks_left_out", source=self.name, tasks=left_out, reason="no annotation, or no agreement")
        return tuple(rows)

    def _label(self, task: _Task) -> int | None:
        """What all who have annotated a task say; None if there is nobody, or no agreement."""
        said = {self._verdict(annotation) for annotation in task.annotations if not annotation.was_cancelled} - {None}
        return said.pop() if len(said) == 1 else None

    def _verdict(self, annotation: _Annotation) -> int | None:
        """What one person says; None if that is nothing, or both."""
        roadwork, clear = set(self._settings.roadwork), set(self._settings.clear)
        for result in annotation.result:
            odd = [name for name in result.names if name not in roadwork | clear]
            # A label of a region may be any other object; a choice is about the whole picture.
            if odd and result.type == "choices":
                raise DatasetError(f"the choice {odd[0]!r} is neither in the setting roadwork nor in clear")
        names = {name for result in annotation.result for name in result.names}
        shows = bool(names & roadwork)
        # Where nothing is drawn, there is none to draw; where a choice says so, nothing chosen says nothing.
        says_nothing = not names and bool(clear)
        return None if says_nothing or (shows and names & clear) else int(shows)

    def _row(self, task: _Task, label: int, paths: ImagePaths) -> Row:
        image = task.data.get(self._settings.image_key)
        if not isinstance(image, str):
            there = ", ".join(sorted(task.data)) or "nothing"
            raise DatasetError(f"has no {self._settings.image_key!r} in its data, but {there}: set image_key")
        inside = self._found(image, paths)
        path = f"{self._prefix}/{inside}"
        if path in self.pictures:
            raise DatasetError(f"the image {image!r} is in two tasks")
        self.pictures[path] = self._images / inside
        about = {name: text for name, text in said_of(task.data).items() if name != self._settings.image_key}
        return export_row(path, label, self._prefix, about)

    @staticmethod
    def _found(image: str, paths: ImagePaths) -> str:
        """The file of a task, for what Label Studio calls it."""
        parts = urlsplit(image)
        if parts.path.startswith(LOCAL_FILES):
            return paths.find(parse_qs(parts.query).get("d", [""])[0])
        if not parts.path.startswith(UPLOADS):
            return paths.find(image)
        uploaded = unquote(parts.path.rpartition("/")[2])
        try:
            return paths.find(uploaded)
        except DatasetError:
            return paths.find(UPLOADED.sub("", uploaded, count=1))
