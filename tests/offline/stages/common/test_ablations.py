"""What is trained beside the model, so that a difference is that of one step alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.config import load_config
from offline.data.dataset import Dataset
from offline.learning.predict import ImageSet
from offline.stages.common.ablations import Ablations, Weights


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({}, True),
        ({"learn.teacher": "/somewhere/teacher"}, False),
        ({"train_supervised.warm_start": "/adapter"}, False),
    ],
)
def test_a_training_without_adaptation_differs_in_nothing_else(changes: dict[str, object], there: bool) -> None:
    """The teacher is asked in one stage alone, so a training beside it would lack the teacher as well."""
    none = ImageSet(np.zeros((0, 3, 32, 32), np.uint8), Dataset(Path("nowhere"), ()))
    config = load_config("tiny", None, {"adapt_domain.enabled": True} | changes)
    weights, place = Weights(Path("a"), Path("b")), Path("nowhere")
    made = Ablations(config, none, none, none, weights, place, place, place, lambda *_: None).variants()
    assert ("unadapted" in made) is there
    assert [*made][-1] == "final"
