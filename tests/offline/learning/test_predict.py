"""How checkpoints are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from offline.data.dataset import Dataset, Row
from offline.learning.checkpoint_score import SelectiveScore, selective_score
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings

STRICT = CalibrationSettings(alpha=0.02)
Binormal = Callable[..., LabelledOutputs]


def score(made: LabelledOutputs, root: Path, settings: CalibrationSettings = STRICT) -> SelectiveScore:
    rows = [Row(image=str(i), label=int(label), group=str(i)) for i, label in enumerate(made.labels)]
    return selective_score(made.outputs, Dataset(root, tuple(rows)), settings)


def test_where_no_rule_looks_safe_the_coverage_at_laxer_levels_decides(binormal: Binormal, tmp_path: Path) -> None:
    poor, fair = (score(binormal(300, seed=1, separation=separation), tmp_path) for separation in (0.3, 2.5))
    assert poor.coverage == fair.coverage == 0.0
    assert 0.0 <= poor.relaxed < fair.relaxed
    assert fair > poor


def test_the_strict_level_comes_first_and_the_loss_last(binormal: Binormal, tmp_path: Path) -> None:
    good = score(binormal(2000, seed=1, separation=6.0), tmp_path)
    assert 0.5 < good.coverage <= good.relaxed
    assert SelectiveScore(0.1, 0.0, -9.0) > SelectiveScore(0.0, 0.9, 0.0)
    assert SelectiveScore(0.1, 0.2, -9.0) > SelectiveScore(0.1, 0.1, 0.0)
    assert SelectiveScore(0.1, 0.2, -1.0) > SelectiveScore(0.1, 0.2, -2.0)


def test_a_level_is_never_laxer_than_a_coin(binormal: Binormal, tmp_path: Path) -> None:
    found = score(binormal(300, seed=1, separation=2.0), tmp_path, CalibrationSettings(alpha=0.4))
    assert np.isfinite([found.coverage, found.relaxed, found.negative_loss]).all()
