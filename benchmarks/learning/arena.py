"""Where methods meet: rows, folds and pixels of a table, and where its files are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.scale import SCALES, Scale
from offline.data.dataset import Dataset
from offline.learning.predict import ImageSet
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Workplace:
    """What a run is told, and where it keeps its files.

    Attributes:
        home: directory of this scale; everything that is made lies in it.
        scale: sizes.
        photographs: data directory of table a.
        mobilenet: directory of the pretrained MobileNetV2.
    """

    home: Path
    scale: Scale
    photographs: str
    mobilenet: str

    def path(self, *parts: str) -> Path:
        """A path inside; its directory is made."""
        path = self.home.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self) -> None:
        """Keep what was told for the tasks, or refuse to go on with something else.

        Raises:
            SystemExit: the directory holds a run with other settings.
        """
        told = json.dumps([asdict(self.scale), self.photographs, self.mobilenet])
        path = self.path("settings.json")
        if path.exists() and path.read_text() != told:
            raise SystemExit(f"{path}: of a benchmark with other settings; give another --out, or delete it")
        path.write_text(told)

    @classmethod
    def read(cls, home: Path) -> Workplace:
        """The workplace that a task was started for."""
        scale, photographs, mobilenet = json.loads((home / "settings.json").read_text())
        return cls(home, SCALES[scale["name"]], photographs, mobilenet)


@dataclass(frozen=True)
class Fold:
    """One training and what it is judged on.

    Attributes:
        name: of the fold.
        train: rows that train.
        val_select: rows that choose the checkpoint.
        held: rows that the network answers afterwards.
    """

    name: str
    train: Rows
    val_select: Rows
    held: Rows


@dataclass(frozen=True)
class Arena:
    """The data of a table.

    Attributes:
        data: all rows.
        folds: trainings, each with its own network.
        test: rows that are reported on.
        calib: rows that certify; empty where the test rows take turns.
        size_px: side of the images.
        pixels: file of the images, uint8 `(N, 3, S, S)`, in the order of the rows.
        calibration: how checkpoints are judged and, at its own alpha, what is certified.
    """

    data: Dataset
    folds: tuple[Fold, ...]
    test: Rows
    calib: Rows
    size_px: int
    pixels: Path
    calibration: CalibrationSettings

    def images(self) -> Pixels:
        """All images, read when they are used."""
        images: Pixels = np.load(self.pixels, mmap_mode="r")
        return images

    def part(self, rows: Rows) -> Dataset:
        """Some of the rows."""
        return Dataset(self.data.root, tuple(self.data.rows[i] for i in rows.tolist()))

    def image_set(self, rows: Rows) -> ImageSet:
        """Some of the images with their rows."""
        return ImageSet(self.images()[rows], self.part(rows))

    def labelled(self, outputs: Stage1Outputs, rows: Rows) -> LabelledOutputs:
        """Outputs for some of the rows."""
        part = self.part(rows)
        return LabelledOutputs(outputs, part.labels, part.ids, part.groups)


def thinned(rows: Sequence[int], most: int) -> list[int]:
    """At most so many of the rows, evenly apart."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int).tolist()]
