"""New views of the pictures that train, as validators would send them, each made from its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engines.machine.cores import on_all_cores
from offline.data.dataset import Dataset
from offline.data.originals import Originals, cropped, random_crop
from offline.errors import DatasetError
from offline.stream.challenge import as_jpeg, challenge, drawn_cell
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.stream import Era, Stream, era_shares
from stage1.errors import ImageError
from stage1.preprocess import Pixels, PreprocessSettings, preprocess, upright

COPIES = "copies"
# Views are seeded by whole numbers below this.
MOST_SEEDS = 2**56


class Challenges(Protocol):
    """Makes views of rows."""

    @property
    def decides(self) -> tuple[object, ...]:
        """What decides a view but picture and seed, as JSON values."""
        ...

    def __call__(self, rows: Sequence[int], seeds: Sequence[int]) -> Pixels:
        """A view of each of some rows, uint8 `(len(rows), 3, H, W)`.

        Args:
            rows: their numbers.
            seeds: of what is drawn for each.

        Raises:
            DatasetError: a file cannot be read.
        """
        ...


@dataclass(frozen=True)
class ChallengeViews:
    """Makes views on all cores; each is the same whichever are made beside it.

    Attributes:
        data: the rows.
        settings: what engines see of an image.
        weights: how often each era is drawn in a mixture, up to a factor.
        stream: what the views are drawn from; not originals, of which there is only one view.
        originals: what is sent of each row; None sends its file.
        crops: whether a random part of the original is sent, and not the whole. It is cut out before anything is made
            smaller, so that what is small in the frame is seen near.
    """

    data: Dataset
    settings: PreprocessSettings
    weights: Mapping[Era, float]
    stream: Stream = "mixture"
    originals: Originals | None = None
    crops: bool = False

    @property
    def decides(self) -> tuple[object, ...]:
        """See `Challenges.decides`."""
        shares = era_shares(self.stream, self.weights)
        copied = [COPIES] if self.data.copied and self.data.kept is not None else []
        known = () if self.originals is None else self.originals.decides
        return self.settings.model_dump(), shares, self.crops, known, *copied

    def __call__(self, rows: Sequence[int], seeds: Sequence[int]) -> Pixels:
        """See `Challenges`."""
        return np.stack(on_all_cores(self._one, rows, seeds))

    def _one(self, row: int, seed: int) -> Pixels:
        name, rng = self.data.rows[row].image, np.random.default_rng(seed)
        cell = drawn_cell(era_shares(self.stream, self.weights), rng)
        try:
            if self.originals is None:
                picture = upright(self.data.file_content(name), self.settings)
            else:
                picture = self.originals.picture(row)
            if self.crops:
                picture = cropped(picture, random_crop(rng))
            return preprocess(as_jpeg(challenge(picture, cell, rng)), self.settings)
        except ImageError as error:
            raise DatasetError(f"{self.data.file_of(name)}: {error}") from error


def certified_views(
    data: Dataset, settings: PreprocessSettings, calibration: CalibrationSettings
) -> ChallengeViews | None:
    """Makes views as the stream that is to be certified sends them; None where that sends the originals.

    Args:
        data: the rows.
        settings: what engines see of an image.
        calibration: names the stream.
    """
    if calibration.stream == "originals":
        return None
    # What trains is no exam: the copies of large files are as good, and their files are not decoded again.
    return ChallengeViews(data.through_copies(), settings, calibration.stream_weights, calibration.stream)
