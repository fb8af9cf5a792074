"""Annotations in the format of COCO: a picture with an annotation of a category of roadwork shows roadwork.

Source: https://cocodataset.org/#format-data, "Data format", object detection.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.dataset import Row
from offline.data.sources.formats.export_row import export_row
from offline.data.sources.formats.json_file import AnnotationFile, read_json, said_of
from offline.data.sources.image_paths import ImagePaths
from offline.data.sources.settings import CocoSource
from offline.errors import DatasetError

SHOWN = 20
# Of an image, what says nothing about the street.
ABOUT_THE_FILE = frozenset({"width", "height", "license", "flickr_url", "coco_url"})


class _Image(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int | str
    file_name: str = Field(min_length=1, max_length=4096)


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int | str


class _Category(BaseModel):
    id: int | str
    name: str


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class Coco(AnnotationFile[CocoSource]):
    """A COCO file."""

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`.

        Raises:
            DatasetError: the file is no COCO file, names a category or an image that is not there, or one twice.
        """
        content = read_json(self._path, TypeAdapter(_Coco), "a COCO file")
        shown = self._with_roadwork(content)
        paths, rows = ImagePaths(self._images), list[Row]()
        for image in content.images:
            row = self._row(image, paths, int(image.id in shown))
            if row.image in self.pictures:
                raise DatasetError(f"{self.name}: the image {image.file_name!r} is listed twice")
            self.pictures[row.image] = self._images / row.image.removeprefix(f"{self._prefix}/")
            rows.append(row)
        return tuple(rows)

    def _row(self, image: _Image, paths: ImagePaths, label: int) -> Row:
        with self._entry(f"image {image.id}"):
            inside = paths.find(image.file_name)
            path = f"{self._prefix}/{inside}"
            about = {name: text for name, text in said_of(image.model_extra).items() if name not in ABOUT_THE_FILE}
            return export_row(path, label, self._prefix, about)

    def _with_roadwork(self, content: _Coco) -> set[int | str]:
        """Ids of the images that show roadwork."""
        names: dict[int | str, str] = {category.id: category.name for category in content.categories}
        unknown = sorted(set(self._settings.roadwork) - set(names.values()))
        if unknown:
            there = sorted(set(names.values()))
            more = " and more" if len(there) > SHOWN else ""
            raise DatasetError(
                f"{self.name}: no category is called {unknown[0]!r}, which the setting roadwork names; there are "
                f"{', '.join(there[:SHOWN]) or 'none'}{more}"
            )
        ids = {image.id for image in content.images}
        if len(ids) < len(content.images):
            raise DatasetError(f"{self.name}: two images have the same id")
        meant = {number for number, name in names.items() if name in self._settings.roadwork}
        found = set[int | str]()
        for annotation in content.annotations:
            if annotation.category_id not in names or annotation.image_id not in ids:
                raise DatasetError(
                    f"{self.name}: an annotation is of image {annotation.image_id} and category "
                    f"{annotation.category_id}, and one of them is not in the file: export it again"
                )
            if annotation.category_id in meant:
                found.add(annotation.image_id)
        return found
