"""A night whose input is no square: what it trains, certifies and publishes, the miner serves to all that arrives."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.live.batcher import Batcher
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot
from engines.store.golden import read_golden
from engines.store.store import Store
from miner.answering.cascade import Cascade
from miner.answering.deadline import TimeBudget
from miner.answering.request import Request
from miner.answering.settings import EngineSettings
from offline.config import RunConfig, load_config
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.synthetic_streets import draw_frame, write_scenes
from offline.learning.predict import predict
from offline.night import run_night
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import BEST
from offline.stream.challenge import Cell, as_jpeg, sent
from stage1.model.backbones import build
from stage1.model.weights import load_weights
from stage1.preprocess import Geometry, PreprocessSettings, preprocess
from stage2_bridge.bridge import Bridge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INPUTS: dict[Geometry, dict[str, Any]] = {
    "wide": {"preprocess.size_px": 48},
    "tiles": {"preprocess.size_px": 32, "preprocess.rows": 2, "preprocess.columns": 3},
}


def config(geometry: Geometry) -> RunConfig:
    quick: dict[str, Any] = {
        "preprocess.geometry": geometry,
        "model.backbone.layers": 2,
        "train_supervised.epochs": 1,
        "compare_training.baseline": False,
        "splits.hash_distance": None,
        "calibrate_scrc.alpha": 0.4,
        "calibrate_scrc.delta": 0.4,
        "eval_selective.cell_rows": 3,
        # After one epoch it says nothing.
        "gate.least_mcc": -1,
    }
    return load_config("tiny", None, quick | INPUTS[geometry])


@dataclass(frozen=True)
class Night:
    """A night, and the bundle that it published."""

    config: RunConfig
    run: Path
    bundle: Path
    live: LiveBundle


@pytest.fixture(scope="module", params=INPUTS)
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Night:
    home, chosen = tmp_path_factory.mktemp("night"), config(request.param)
    list(write_scenes(home / "scenes", scenes=100))
    outcome = run_night(
        home / "scenes", workspace=home / "w", store=home / "s", config=chosen, progress=Silence(), now=lambda: NOW
    )
    current = Store(home / "s").current()
    assert current is not None
    bundle = Store(home / "s").path(current.bundle)
    return Night(chosen, outcome.run, bundle, load_bundle(bundle, threads=1))


def arrivals() -> dict[str, bytes]:
    """A frame as it is, the middle of it as a square, and it as a square between bars."""
    frame = as_jpeg(draw_frame(plan_scene(3, seed=7, difficulty=0.1), 0).resize((1280, 720), Image.Resampling.BILINEAR))
    rng, settings = np.random.default_rng(0), PreprocessSettings()
    eras = {"frame": "challenges-2026-05", "cut": "challenges-2026-01", "barred": "challenges-2026-04"}
    return {name: sent(frame, Cell(era, 0), rng, settings) for name, era in eras.items()}  # type: ignore[arg-type]


def answers(live: LiveBundle, images: list[bytes]) -> list[float]:
    """What the miner answers."""

    async def run() -> list[float]:
        slot = BundleSlot()
        slot.swap(live)
        cascade = Cascade(
            slot,
            Batcher(BatchSettings()),
            Bridge(None, max_in_flight=1, clock=time.monotonic),
            observers=(),
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: NOW,
        )
        deadline = TimeBudget(9.0, 0.3, 0.1).deadline(time.monotonic(), 20.0)
        found = [
            await cascade.answer(Request(str(number), "5Validator", 1, base64.b64encode(image).decode(), deadline))
            for number, image in enumerate(images)
        ]
        await cascade.close()
        return [each.probability for each in found]

    return asyncio.run(run())


def by_torch(night: Night, images: list[bytes]) -> NDArray[np.float32]:
    """Logits of the trained network itself."""
    chosen = night.config
    net = build(chosen.model, shape=chosen.preprocess.shape, tiles=chosen.preprocess.tiles, seed=0)
    load_weights(net, night.run / BEST)
    pixels = np.stack([preprocess(image, chosen.preprocess) for image in images])
    return predict(net.eval(), pixels).logits


def test_the_bundle_says_what_it_takes(night: Night) -> None:
    settings = PreprocessSettings.read(night.bundle / "preprocess.json")
    assert settings == night.config.preprocess
    assert night.live.engine.describe().shape == settings.shape != (settings.size_px, settings.size_px)
    assert read_golden(night.bundle / "golden.npz")[0].shape[1:] == (3, *settings.shape)


def test_a_frame_a_square_and_a_square_between_bars_are_decided_as_the_network_would(night: Night) -> None:
    images = list(arrivals().values())
    settings, live = night.live.preprocess, night.live
    outputs = live.engine.infer(np.stack([preprocess(image, settings) for image in images]))
    assert np.allclose(outputs.logits, by_torch(night, images), atol=1e-4)
    assert answers(live, images) == pytest.approx(live.calibrator.probability(outputs).tolist(), abs=1e-5)


def test_a_frame_and_the_same_between_bars_are_one_picture_to_the_engine(night: Night) -> None:
    shown = {name: preprocess(image, night.live.preprocess).astype(np.float64) for name, image in arrivals().items()}
    apart = {name: np.abs(shown[name] - shown["frame"]).mean() for name in ("barred", "cut")}
    assert apart["barred"] < 0.3 * apart["cut"]
