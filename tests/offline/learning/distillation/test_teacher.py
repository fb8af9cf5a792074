"""Who may teach: models in a directory, or a table of verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from engines.store.file_names import ENGINE, PREPROCESS
from offline.data.dataset import Dataset, Row
from offline.errors import TrainingError
from offline.learning.distillation.teacher import answers_of, models_of
from stage1.preprocess import PreprocessSettings


def model(home: Path, write_onnx: Callable[..., Path], *, shift: float = 0.0) -> Path:
    home.mkdir(parents=True)
    write_onnx(home / ENGINE, shift=shift)
    PreprocessSettings(size_px=32).write(home / PREPROCESS)
    return home


def test_a_bundle_teaches_alone_and_a_directory_of_them_by_its_mean(
    tmp_path: Path, write_onnx: Callable[..., Path], encoded: Callable
) -> None:
    from PIL import Image  # noqa: PLC0415

    first, second = (model(tmp_path / "seeds" / str(n), write_onnx, shift=float(n)) for n in range(2))
    assert models_of(first) == [first]
    assert models_of(tmp_path / "seeds") == [first, second]
    rows = []
    for number, colour in enumerate([(200, 30, 20), (20, 30, 200)]):
        (tmp_path / f"{number}.png").write_bytes(encoded(Image.new("RGB", (40, 40), colour), "PNG"))
        rows.append(Row(image=f"{number}.png", label=number, group=str(number)))
    found = answers_of([first, second], Dataset(tmp_path, tuple(rows)), lambda *_: None)
    # Logit of roadwork minus the other: 0.04 times red minus blue, and the shift.
    scores = np.array([[0.04 * 180 + shift, 0.04 * -180 + shift] for shift in (0.0, 1.0)])
    assert found == pytest.approx(expit(scores).mean(axis=0), abs=1e-5)


def test_a_directory_without_a_model_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no teacher: learn\.teacher names a bundle"):
        models_of(tmp_path)
