"""The views of supervised training: what validators make of originals, or of crops of them."""

from __future__ import annotations

from collections.abc import Callable

from offline.data.dataset import Dataset
from offline.data.originals import Copies, originals_of
from offline.data.pictures.pixel_store import digests_of
from offline.learning.augmentation import SEE_CHALLENGES
from offline.learning.challenge_views import ChallengeViews
from offline.learning.settings import Augmentation
from stage1.certificate.settings import CalibrationSettings
from stage1.preprocess import PreprocessSettings


def training_views(
    data: Dataset,
    settings: PreprocessSettings,
    calibration: CalibrationSettings,
    augmentation: Augmentation,
    copies: Copies,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> ChallengeViews:
    """Makes views for supervised training, of originals and by the mixture that the settings weigh.

    Args:
        data: the rows that train.
        settings: what engines see of an image.
        calibration: weighs the eras.
        augmentation: `strong` sends random crops.
        copies: where originals are.
        progress: called with files done, files in all, and a note.

    Raises:
        DatasetError: a file cannot be read, or has no copy; names it.
    """
    if augmentation not in SEE_CHALLENGES:
        return ChallengeViews(data, settings, calibration.stream_weights)
    originals = originals_of([data.file_of(row) for row in data.ids], copies, progress, digests_of(data))
    crops = augmentation == "strong"
    return ChallengeViews(data, settings, calibration.stream_weights, originals=originals, crops=crops)
