"""What several parts are tested with: outputs with a known law, a tiny compiled engine, bundles made of it."""

from __future__ import annotations

import os

# Before numpy and torch are imported, here and in every child: networks as small as these only wait for each other's
# threads, the workers of a test run share the cores, and sums of another number of threads round otherwise.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"

import functools
import gc
import importlib.util
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engines.store.bundle import Provenance
from engines.store.file_names import CALIBRATOR, ENGINE, GOLDEN, PARAMS, PREPROCESS
from engines.store.golden import write_golden
from engines.store.store import Store
from stage1.artifacts import sha256_file
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs
from stage1.preprocess import PreprocessSettings
from stage1.telemetry import switch_off
from tests.support.calibrators import calibrator_of_slopes

# Test modules import libraries that report their use.
switch_off()

# The same examples in every run: a failure is a change of the code, and never of the dice.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

# Left out where the packages that they need are not installed.
NEEDS = {
    "torch": [
        "benchmarks/learning/test_child.py",
        "examples/test_examples.py",
        "miner/demo",
        "offline/learning",
        "offline/stages/common/test_ablations.py",
        "offline/stages/common/test_network.py",
        "offline/stages/test_input_shape.py",
        "offline/stages/test_resume_training.py",
        "offline/stages/test_race.py",
        "offline/stages/test_teacher.py",
        "offline/stages/test_training.py",
        "offline/stages/test_stream.py",
        "offline/test_decodes.py",
        "offline/test_night.py",
        "offline/test_resume.py",
        "stage1/model",
        "engines/backends/tensorrt/test_build.py",
    ],
    "tensorrt_rtx": [
        "engines/backends/tensorrt/test_build.py",
        "engines/backends/tensorrt/test_refusal.py",
        "engines/live/machines",
    ],
}
collect_ignore = [
    path for package, paths in NEEDS.items() if importlib.util.find_spec(package) is None for path in paths
]

# These take minutes: they begin first, so that none of them is what all others have waited for.
LONGEST = (
    "stage1/certificate/test_guarantees.py",
    "miner/demo/test_run.py",
    "offline/test_resume.py",
    "offline/stages/test_training.py",
    "examples/test_examples.py",
    "offline/stages/test_resume_training.py",
    "miner/simulation/test_run.py",
    "offline/pipeline/test_runner.py",
    "engines/live/machines/test_rebuild.py",
    "offline/learning/test_optimiser.py",
    "engines/backends/tensorrt/test_build.py",
    "offline/test_night.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run the tests of a file in one order, drawn once; `--randomly-seed` draws another, where none may fail either."""
    if config.getoption("randomly_seed", None) == "default":
        config.option.randomly_seed = 72


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; workers take whole files in this order, and make the fixtures of a file once."""
    here = Path(__file__).parent
    first = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


def _settle() -> None:
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what the test modules have loaded out of each look for garbage: a million objects, a second a look."""
    _settle()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """And what the tests of a file have loaded since."""
    if nextitem is not None and nextitem.path != item.path:
        _settle()


SIZE_PX = 32
# Columns: logit of no roadwork, logit of roadwork, selection score; rows: mean red, green and blue in [0, 255].
WEIGHTS = np.array([[-0.02, 0.02, 0.0], [0.0, 0.0, 0.04], [0.02, -0.02, 0.0]], np.float32)


def _outputs_of(score: NDArray[np.floating], select_score: NDArray[np.floating] | None = None) -> Stage1Outputs:
    """Outputs with these roadwork scores, exactly, and these selection scores (default 0)."""
    score = np.asarray(score, np.float32)
    select_score = np.zeros(len(score)) if select_score is None else select_score
    return Stage1Outputs(np.stack([np.zeros_like(score), score], axis=1), np.asarray(select_score, np.float32))


def _binormal(rows: int, *, seed: int, prefix: str = "", separation: float = 3.0, frames: int = 1) -> LabelledOutputs:
    """Labelled outputs of a good model: one in three is roadwork, scores are normal around +- half the separation.

    The selection score is the distance of the score from zero, with noise; every group has `frames` rows of one label.
    """
    rng = np.random.default_rng((seed, rows))
    labels = np.repeat(rng.random(-(-rows // frames)) < 1 / 3, frames)[:rows].astype(np.int8)
    score = rng.normal((labels - 0.5) * separation, 1.0)
    outputs = _outputs_of(score, np.abs(score) + rng.normal(0, 0.5, rows))
    ids = [f"{prefix}{seed}/{row}" for row in range(rows)]
    return LabelledOutputs(outputs, labels, ids, [f"{prefix}{seed}/{row // frames}" for row in range(rows)])


def _write_onnx(
    path: Path,
    *,
    size_px: int | str = SIZE_PX,
    width_px: int | str | None = None,
    batch: int | str = "N",
    shift: float = 0.0,
    outputs: tuple[str, str] = ("logits", "select_score"),
    dtype: int = TensorProto.UINT8,
    channels: int = 3,
    only_batch: int | None = None,
    heads: tuple[str, ...] = (),
) -> Path:
    """A linear engine of the mean colour: logits and selection score are `mean @ WEIGHTS`, plus `shift` on roadwork.

    Args:
        path: where it is written.
        size_px: height of the input; a name makes it a symbolic dimension.
        width_px: its width; None for that of a square.
        batch: first dimension; a number fixes it.
        shift: added to the logit of roadwork; NaN makes every output of that column NaN.
        outputs: names of the two outputs.
        dtype: type of the input.
        channels: channels of the input.
        only_batch: the graph is valid, and can only be run with so many images.
        heads: names of further outputs, each a copy of the logits.
    """
    weights, width = np.resize(WEIGHTS, (channels, 3)), size_px if width_px is None else width_px
    constants: dict[str, NDArray[np.generic]] = {
        "axes": np.array([2, 3], np.int64),
        "weights": weights,
        "bias": np.array([0.0, shift, 0.0], np.float32),
        "first_two": np.array([0, 1], np.int64),
        "third": np.array(2, np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["weighted"]),
        helper.make_node("Add", ["weighted", "bias"], ["heads"]),
        helper.make_node("Gather", ["heads", "first_two"], [outputs[0]], axis=1),
        helper.make_node("Gather", ["heads", "third"], [outputs[1]], axis=1),
    ]
    if only_batch is not None:
        constants["fixed"] = np.array([only_batch, 3], np.int64)
        nodes[3].output[0] = "free"
        nodes.insert(4, helper.make_node("Reshape", ["free", "fixed"], ["heads"]))
    nodes += [helper.make_node("Identity", [outputs[0]], [name]) for name in heads]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("image", dtype, [batch, channels, size_px, width])],
        [
            helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, None),
            helper.make_tensor_value_info(outputs[1], TensorProto.FLOAT, None),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in heads),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def _plain_images(colours: NDArray[np.integer], size_px: int = SIZE_PX, width_px: int = 0) -> NDArray[np.uint8]:
    """One image of a single colour for each row `(r, g, b)`: uint8 `(N, 3, size_px, width_px or size_px)`."""
    shape = len(colours), 3, size_px, width_px or size_px
    return np.broadcast_to(np.asarray(colours, np.uint8)[:, :, None, None], shape).copy()


def _encoded(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _write_bundle_files(
    directory: Path,
    *,
    engine: Path,
    params: ScrcParams | None = None,
    preprocess: PreprocessSettings | None = None,
    golden_shift: float = 0.0,
    note: str = "",
) -> Path:
    """The files of a bundle around an engine, certified for it, without a manifest.

    Args:
        directory: created.
        engine: ONNX file to copy.
        params: certificate; a real one for this engine by default.
        preprocess: settings; those of the engine by default.
        golden_shift: added to the golden logit of roadwork.
        note: content of a file; another note is another bundle.
    """
    directory.mkdir(parents=True)
    (directory / ENGINE).write_bytes(engine.read_bytes())
    preprocess = preprocess or PreprocessSettings(size_px=SIZE_PX)
    preprocess.write(directory / PREPROCESS)
    if params is None:
        params = _certificate(engine_sha256=sha256_file(engine), preprocess_sha256=preprocess.sha256)
    params.write(directory / PARAMS)
    calibrator_of_slopes(0.9, 0.8, 0.1, rows=10).write(directory / CALIBRATOR)
    for name in ("config.json", "splits.json", "metrics.csv", "report.html"):
        (directory / name).write_text(f"{name} {note}\n")
    images = _plain_images(np.random.default_rng(3).integers(0, 256, (6, 3)), *preprocess.shape)
    heads = images.astype(np.float64).mean((2, 3)) @ WEIGHTS + np.array([0.0, golden_shift, 0.0])
    heads = heads.astype(np.float32)
    write_golden(directory / GOLDEN, images, Stage1Outputs(heads[:, :2], heads[:, 2]))
    return directory


def _certificate(
    *,
    engine_sha256: str = "e" * 64,
    preprocess_sha256: str = "p" * 64,
    feasible: bool = True,
    **asked: Any,
) -> ScrcParams:
    """What `calibrate` says about a good model, or about one that says nothing; `asked` are settings."""
    return _certified(engine_sha256, preprocess_sha256, json.dumps(asked), feasible=feasible)


@functools.cache
def _certified(engine_sha256: str, preprocess_sha256: str, settings: str, *, feasible: bool) -> ScrcParams:
    asked = json.loads(settings)
    rows, separation = (1200, 3.0) if feasible else (60, 0.0)
    context = CalibrationContext(
        engine_sha256, preprocess_sha256, code_version="test", stream=asked.pop("stream", "mixture")
    )
    common: dict[str, Any] = {"alpha": 0.05, "grid_size": 40, "gate_size": 5, "gate": "select_score"}
    return calibrate(
        _binormal(rows, seed=1, prefix="select/", separation=separation),
        _binormal(rows, seed=2, prefix="calib/", separation=separation),
        CalibrationSettings.model_validate(common | asked),
        context,
    )


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test that configures logging, as every command does, does so for itself alone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _at_once(work: Callable[[int], None], workers: int = 4) -> None:
    """Have so many threads do the same, each with its number; returns when all are done."""
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="session")
def at_once() -> Callable[..., None]:
    return _at_once


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def publisher(
    tmp_path: Path,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> Callable[[Store], Callable[..., str]]:
    """For a store, what publishes a bundle of its own kind there and makes it current."""

    def of(store: Store) -> Callable[..., str]:
        def publish_one(note: str, *, golden_shift: float = 0.0, **graph: Any) -> str:
            engine = write_onnx(tmp_path / f"{note}.onnx", **graph)
            files = write_bundle_files(tmp_path / note, engine=engine, golden_shift=golden_shift, note=note)
            bundle = store.publish(files, provenance)
            store.activate(bundle, now=datetime(2026, 1, 1, tzinfo=UTC))
            return bundle

        return publish_one

    return of


@pytest.fixture
def publish(store: Store, publisher: Callable[[Store], Callable[..., str]]) -> Callable[..., str]:
    """Publishes a bundle of its own kind in `store` and makes it current."""
    return publisher(store)


@pytest.fixture(scope="session")
def outputs_of() -> Callable[..., Stage1Outputs]:
    return _outputs_of


@pytest.fixture(scope="session")
def binormal() -> Callable[..., LabelledOutputs]:
    return _binormal


@pytest.fixture(scope="session")
def certificate() -> Callable[..., ScrcParams]:
    return _certificate


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    return _encoded


@pytest.fixture(scope="session")
def plain_images() -> Callable[..., NDArray[np.uint8]]:
    return _plain_images


@pytest.fixture(scope="session")
def write_onnx() -> Callable[..., Path]:
    return _write_onnx


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of `write_onnx` with nothing changed."""
    return _write_onnx(tmp_path_factory.mktemp("engine") / "model.onnx")


@pytest.fixture(scope="session")
def write_bundle_files() -> Callable[..., Path]:
    return _write_bundle_files


@pytest.fixture(scope="session")
def bundle_files(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Path:
    """Files of a complete bundle around the tiny engine; not to be changed."""
    return _write_bundle_files(tmp_path_factory.mktemp("bundle") / "files", engine=tiny_engine)


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    return Provenance(run="run", created_at="2026-01-01T00:00:00+00:00", code_version="test", data_sha256="d" * 64)
