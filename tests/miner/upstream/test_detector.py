"""The live bundle as a detector of the reference miner, driven as that miner drives its detectors."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.errors import UnknownBundle
from engines.live.load.load_bundle import load_bundle
from engines.store.store import Store
from miner.upstream.detector import LiveDetector
from stage1.artifacts import sha256_file
from stage1.certificate.params import ScrcParams
from stage1.errors import ImageError
from stage1.image_file import ImageLimits, decode, opened
from stage1.preprocess import PreprocessSettings, preprocess, preprocess_picture
from stage1.probability.calibrator import answer_probability

ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"
LIMIT_S = 240.0
COLOURS = [(250, 10, 10), (10, 10, 250), (130, 128, 126), (128, 250, 128), (0, 0, 0)]
# What `neurons/miner.py` does with its detector; the axon is not its own here.
MINER = """
import argparse, base64, io, json, sys
from PIL import Image
from {package}.registry import DETECTOR_REGISTRY
import {package}.detectors

parser = argparse.ArgumentParser()
for name in ("image_detector", "image_detector_config", "image_detector_device"):
    parser.add_argument(f"--neuron.{{name}}", default="cpu")
config, _ = parser.parse_known_args()
config = vars(config)
detector = DETECTOR_REGISTRY[config["neuron.image_detector"]](
    config_name=config["neuron.image_detector_config"], device=config["neuron.image_detector_device"]
)
predictions = []
for image in json.loads(sys.stdin.read()):
    prediction = -1.0
    try:
        prediction = detector(Image.open(io.BytesIO(base64.b64decode(image))))
    except Exception as error:
        print(error, file=sys.stderr)
    predictions.append(prediction)
print("torch" in sys.modules, file=sys.stderr)
print(json.dumps(predictions))
"""


def encoded(picture: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def street() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 60, 3), np.uint8))


PICTURES = [encoded(Image.new("RGB", (48, 64), colour)) for colour in COLOURS] + [encoded(street(), "PNG")]


def expected(store: Store, bundle: str, content: bytes) -> float:
    """What a miner of ours answers without a Stage-2."""
    live = load_bundle(store.path(bundle))
    outputs = live.engine.infer(np.stack([preprocess(content, live.preprocess)]))
    answer = float(answer_probability(live.calibrator.probability(outputs), live.policy.decide(outputs))[0])
    live.close()
    return answer


@pytest.mark.parametrize("package", ["base_miner", "natix.miner"])
def test_the_reference_miner_answers_by_the_live_bundle(
    package: str, tmp_path: Path, store: Store, publisher: Callable[[Store], Callable[..., str]]
) -> None:
    bundle = publisher(store)("live")
    tree = tmp_path / "streetvision-subnet"
    home = tree / package.replace(".", "/")
    (home / "detectors").mkdir(parents=True)
    (tree / "neurons").mkdir()
    shutil.copy(SUPPORT / "reference_registry.py", home / "registry.py")
    shutil.copy(SUPPORT / "reference_detectors.py", home / "detectors" / "__init__.py")
    (tree / "neurons" / "miner.py").write_text(MINER.format(package=package))
    config = tmp_path / "live.yaml"
    config.write_text(f"store: {store.root}\nthreads: 1\n")
    command = [sys.executable, "-m", "miner.upstream", "neurons/miner.py", "--neuron.image_detector", "CASCADE"]
    done = subprocess.run(
        [*command, "--neuron.image_detector_config", str(config), "--neuron.image_detector_device", "cuda"],
        input=json.dumps([base64.b64encode(content).decode() for content in [*PICTURES, b"no image"]]),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *predictions, last = json.loads(done.stdout.splitlines()[-1])
    assert predictions == [expected(store, bundle, content) for content in PICTURES]
    assert last == -1.0
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_without_the_reference_miner_it_says_where_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import miner.upstream.plugin"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "neither natix.miner.registry nor base_miner.registry can be imported" in done.stderr


def test_without_a_script_it_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "miner.upstream"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.startswith("usage: python -m miner.upstream")) == (1, True)


def answered_by(detector: LiveDetector, bundle: str) -> bool:
    detector.probability(street())
    return detector.bundle_id == bundle


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_follows_the_store_and_keeps_what_answers_if_the_next_is_refused(
    store: Store, publisher: Callable[[Store], Callable[..., str]]
) -> None:
    publish = publisher(store)
    first = publish("first")
    detector = LiveDetector(store.root, threads=1)
    assert answered_by(detector, first)
    second = publish("second", shift=1.0, golden_shift=1.0)
    until(lambda: answered_by(detector, second))
    content = PICTURES[0]
    assert detector.probability(Image.open(io.BytesIO(content))) == expected(store, second, content)
    publish("lies", shift=2.0)
    store.pointer_path.touch()
    for _ in range(20):
        detector.probability(street())
        time.sleep(0.05)
    until(lambda: detector._loading is None or detector._loading.done())
    assert answered_by(detector, second)
    # A rollback is followed as well.
    store.activate(first, now=datetime(2026, 1, 2, tzinfo=UTC))
    until(lambda: answered_by(detector, first))
    detector.close()


def test_what_nothing_is_certified_for_is_answered_as_calibrated(
    store: Store,
    tmp_path: Path,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance,
) -> None:
    bound = {
        "engine_sha256": sha256_file(tiny_engine),
        "preprocess_sha256": PreprocessSettings(size_px=32).sha256,
    }
    params = certificate(feasible=False, **bound)
    assert params.status == "INFEASIBLE"
    files = write_bundle_files(tmp_path / "deferring", engine=tiny_engine, params=params)
    bundle = store.publish(files, provenance)
    store.activate(bundle, now=datetime(2026, 1, 1, tzinfo=UTC))
    detector = LiveDetector(store.root, threads=1)
    live = load_bundle(store.path(bundle))
    for content in PICTURES:
        outputs = live.engine.infer(np.stack([preprocess(content, live.preprocess)]))
        assert detector.probability(Image.open(io.BytesIO(content))) == float(live.calibrator.probability(outputs)[0])
    live.close()
    detector.close()


def test_without_a_current_bundle_it_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownBundle, match="no bundle is current; `cascade retrain` makes one"):
        LiveDetector(tmp_path / "none")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("turned", [1, 3, 6])
def test_an_opened_picture_has_the_pixels_of_its_file(mode: str, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    picture = street() if mode != "I;16" else Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    picture = picture if mode == "I;16" else picture.convert(mode)
    content = encoded(picture, "JPEG" if mode in {"RGB", "L", "CMYK"} else "PNG", exif=exif)
    limits = ImageLimits(10_000)
    assert np.array_equal(
        np.asarray(opened(Image.open(io.BytesIO(content)), limits)), np.asarray(decode(content, limits))
    )


def test_an_opened_picture_over_the_limit_or_cut_off_is_refused() -> None:
    content = encoded(street())
    with pytest.raises(ImageError, match="the limit is 100 pixels"):
        opened(Image.open(io.BytesIO(content)), ImageLimits(100))
    with pytest.raises(ImageError, match="not a readable"):
        opened(Image.open(io.BytesIO(content[:700])), ImageLimits(10_000))
    assert preprocess_picture(Image.open(io.BytesIO(content)), PreprocessSettings(size_px=32)).shape == (3, 32, 32)
