"""Bundles around small random DINOv3s, for benchmarks of what serves them."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.random_dinov3 import Shape, network
from engines.backends.onnxruntime import OnnxEngine
from engines.store.bundle import Provenance, engine_sha256
from engines.store.file_names import CALIBRATOR, ENGINE, GOLDEN, PARAMS, PREPROCESS
from engines.store.golden import write_golden
from engines.store.store import Store
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator

SMALL = Shape(192, 4, 3)
SIZE_PX = SMALL.size_px
PROVENANCE = Provenance(run="benchmark", created_at="2026-01-01T00:00:00+00:00", code_version="0", data_sha256="0" * 64)


def images(count: int, seed: int = 0) -> Pixels:
    """Noise on a coarse grid of colours, uint8 `(count, 3, S, S)`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (count, 3, 14, 14)).repeat(16, axis=2).repeat(16, axis=3)
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)


def export(path: Path, shape: Shape, seed: int) -> Path:
    """The ONNX file of a random network, kept at `path`; made in a process of its own, which has torch."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(_export, path, shape, seed).result()
    return path


def _export(path: Path, shape: Shape, seed: int) -> None:
    from offline.certify.onnx_export import export_onnx

    partial = path.with_suffix(".partial")
    export_onnx(network(shape, seed), partial, (shape.size_px, shape.size_px))
    partial.rename(path)


def linear(path: Path, size_px: int) -> Path:
    """The ONNX file of an engine that costs next to nothing: weighted mean colours of an image of `size_px`."""
    constants: dict[str, NDArray[Any]] = {
        "axes": np.array([2, 3], np.int64),
        "weights": np.array([[-0.02, 0.02, 0.0], [0.0, 0.0, 0.04], [0.02, -0.02, 0.0]], np.float32),
        "first_two": np.array([0, 1], np.int64),
        "third": np.array(2, np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["heads"]),
        helper.make_node("Gather", ["heads", "first_two"], ["logits"], axis=1),
        helper.make_node("Gather", ["heads", "third"], ["select_score"], axis=1),
    ]
    asked = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, size_px, size_px])]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "select_score")]
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "mean_colour", asked, given, known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def publish(store: Store, engine: Path, directory: Path, *more: Path) -> str:
    """Put an engine into a store as a bundle of its own, certified on made-up rows; returns its id.

    Args:
        store: the store.
        engine: ONNX file.
        directory: for its files.
        more: files to be put into it.
    """
    directory.mkdir(parents=True)
    for path in more:
        shutil.copyfile(path, directory / path.name)
    (directory / ENGINE).write_bytes(engine.read_bytes())
    preprocess = PreprocessSettings(size_px=SIZE_PX)
    preprocess.write(directory / PREPROCESS)
    context = CalibrationContext(engine_sha256(engine), preprocess.sha256, code_version="0")
    certificate(context).write(directory / PARAMS)
    ProbabilityCalibrator().write(directory / CALIBRATOR)
    for name in ("config.json", "splits.json", "metrics.csv", "report.html"):
        (directory / name).write_text("")
    golden, session = images(32, seed=1), OnnxEngine(engine)
    write_golden(directory / GOLDEN, golden, session.infer(golden))
    session.close()
    return store.publish(directory, PROVENANCE)


def certificate(context: CalibrationContext | None = None) -> ScrcParams:
    """What is certified on made-up rows."""
    return _certificate_of_nothing() if context is None else _certified(context)


@cache
def _certificate_of_nothing() -> ScrcParams:
    return _certified(CalibrationContext("e" * 64, "p" * 64))


def _certified(context: CalibrationContext) -> ScrcParams:
    return calibrate(_rows(1), _rows(2), CalibrationSettings(alpha=0.05), context)


@cache
def _rows(seed: int) -> LabelledOutputs:
    rng = np.random.default_rng(seed)
    labels = (rng.random(1200) < 1 / 3).astype(np.int8)
    score = rng.normal((labels - 0.5) * 3, 1.0).astype(np.float32)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], axis=1), np.abs(score))
    ids = [f"{seed}/{row}" for row in range(len(labels))]
    return LabelledOutputs(outputs, labels, ids, ids)
