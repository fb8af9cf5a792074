"""In a whole night a file is decoded once, in the next one not at all, and no set is held in memory."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offline.config import RunConfig, load_config
from offline.data import dataset, originals
from offline.data.pictures.pixel_store import PixelStore
from offline.data.sources.synthetic_streets import write_scenes
from offline.night import run_night
from offline.stages.common import ablations
from stage1 import image_file, preprocess

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCENES = 80


def config(**more: Any) -> RunConfig:
    quick: dict[str, Any] = {
        "preprocess.size_px": 32,
        "model.backbone.layers": 1,
        "train_supervised.epochs": 1,
        "train_conformal_risk.enabled": True,
        "train_conformal_risk.steps": 4,
        "compare_training.repetitions": 5,
        "eval_selective.cell_rows": 2,
        "splits.hash_distance": None,
        "gate.least_mcc": -1,
    }
    return load_config("tiny", None, quick | more)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each content was decoded, whoever did it."""
    found: Counter[str] = Counter()
    before = image_file.decoded

    def counted(content: bytes, limits: image_file.ImageLimits | None = None) -> Any:
        found[hashlib.sha256(content).hexdigest()] += 1
        return before(content, limits)

    monkeypatch.setattr(image_file, "decoded", counted)
    monkeypatch.setattr(preprocess, "decoded", counted)
    # So that scenes are files with copies; no frame of a camera is as small.
    monkeypatch.setattr(originals, "LONGEST_PX", 200)
    monkeypatch.setattr(ablations, "BASELINE_EPOCHS", 1)
    return found


def nights(home: Path, asked: RunConfig, last: str | None = None) -> None:
    run_night(home / "data", workspace=home / "w", store=home / "s", config=asked, now=lambda: NOW, last=last)


def scenes(directory: Path, count: int, seed: int = 0) -> list[str]:
    list(write_scenes(directory, scenes=count, seed=seed))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (directory / "images").iterdir()]


def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of pictures that were in memory as pixels at once."""
    counts: list[int] = []
    before = dataset.Dataset.array

    def told(self: dataset.Dataset, settings: preprocess.PreprocessSettings) -> preprocess.Pixels:
        counts.append(len(self))
        return before(self, settings)

    monkeypatch.setattr(dataset.Dataset, "array", told)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["mixture", "originals"])
def test_a_file_is_decoded_once_in_a_night_and_not_again_in_the_next(
    stream: str, tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, in_memory = scenes(tmp_path / "data", SCENES), held(monkeypatch)
    asked = config(**{"calibrate_scrc.stream": stream, "train_supervised.augmentation": "strong"})
    nights(tmp_path, asked)
    assert {decoded[file] for file in files} == {1}
    # What is read whole: golden pictures, a sample of the export and for the engines.
    assert max(in_memory) <= 64
    decoded.clear()
    # Another seed trains anew, on the same pictures.
    nights(tmp_path, asked.model_copy(update={"seed": 1}))
    assert sum(decoded[file] for file in files) == 0


def test_a_night_with_new_rows_decodes_these_alone(tmp_path: Path, decoded: Counter[str]) -> None:
    old, night = scenes(tmp_path / "data", SCENES), partial(nights, tmp_path, config())
    night("splits")
    decoded.clear()
    more = scenes(tmp_path / "more", 6, seed=5)
    labels = tmp_path / "data" / "labels.csv"
    for path in (tmp_path / "more" / "images").iterdir():
        (tmp_path / "data" / "images" / f"new-{path.name}").write_bytes(path.read_bytes())
    new = (tmp_path / "more" / "labels.csv").read_text().splitlines()[1:]
    labels.write_text(labels.read_text() + "\n".join(new).replace("images/", "images/new-") + "\n")
    night("train_supervised")
    assert {file: decoded[file] for file in (*old, *more)} == dict.fromkeys(old, 0) | dict.fromkeys(more, 1)


@pytest.fixture
def large(tmp_path: Path) -> Callable[[int], dataset.Dataset]:
    """Rows whose pixels, at 256 px, are 0.19 MB each."""

    def make(count: int) -> dataset.Dataset:
        buffer = io.BytesIO()
        for n in range(count):
            buffer.seek(0)
            buffer.truncate()
            Image.new("RGB", (64, 64), (n % 256, n // 256, 0)).save(buffer, "PNG")
            (tmp_path / f"{n}.png").write_bytes(buffer.getvalue())
        rows = tuple(dataset.Row(image=f"{n}.png", label=n % 2, group=str(n)) for n in range(count))
        return dataset.Dataset(tmp_path, rows)

    return make


def test_reading_a_set_takes_the_memory_of_a_batch(large: Callable[[int], dataset.Dataset], tmp_path: Path) -> None:
    """Of what Python and numpy allocate, counted by byte and not by what the system says of the process."""
    settings = preprocess.PreprocessSettings(size_px=256)
    data = large(400)
    contents = {row: hashlib.sha256(data.path_of(row).read_bytes()).hexdigest() for row in data.ids}
    store = PixelStore(tmp_path / "pixels", originals.Copies(tmp_path / "copies", settings), contents)
    data = data.keeping(store)
    whole = len(data) * 3 * 256 * 256
    tracemalloc.start()
    images = store.images(data, settings)
    total = sum(int(images[start : start + 16].sum(dtype=np.int64)) for start in range(0, len(images), 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 0
    # A group that is written and what is decoded ahead of it, of any number of rows.
    assert peak < whole / 3
