"""A small vision transformer as the pipeline exports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

DINOV3_SIZE_PX = 64


@pytest.fixture(scope="session")
def small_dinov3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a DINOv3 of three blocks with a named head and random weights."""
    pytest.importorskip("torch")
    from offline.config import ModelSettings, NamedHead, RandomBackbone  # noqa: PLC0415
    from offline.exporting import export_onnx  # noqa: PLC0415
    from offline.modeling import build  # noqa: PLC0415

    works = NamedHead(column="works", classes=("none", "active", "planned"))
    settings = ModelSettings(backbone=RandomBackbone(layers=3), heads={"works": works})
    path = tmp_path_factory.mktemp("dinov3") / "model.onnx"
    export_onnx(build(settings, size_px=DINOV3_SIZE_PX, seed=0), path, DINOV3_SIZE_PX)
    return path


@pytest.fixture(scope="session")
def weights_beside(tmp_path_factory: pytest.TempPathFactory, small_dinov3: Path) -> Path:
    """The same graph with its weights in a second file, as a large one has them."""
    path = tmp_path_factory.mktemp("beside") / "model.onnx"
    onnx.save(
        onnx.load(small_dinov3), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    return path


@pytest.fixture(scope="session")
def photographs() -> NDArray[np.uint8]:
    """Images for `small_dinov3` that differ in brightness and contrast."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 3, DINOV3_SIZE_PX, DINOV3_SIZE_PX))
    contrast, brightness = rng.uniform(0.05, 1, (2, 32, 1, 1, 1))
    images: NDArray[np.uint8] = (noise * contrast * brightness).astype(np.uint8)
    return images
