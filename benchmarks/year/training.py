"""A stand-in for training, handed to the night through its table of stages: a logistic regression on mean colours.

It takes the places of `train_supervised`, `train_ablations` and `export`; all other stages are the product's own.
"""

from __future__ import annotations

import csv
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engines.backends.backend import CompileOptions
from engines.backends.registry import compile_engine
from engines.store.bundle import certified_sha256_of
from engines.store.file_names import ENGINE, PREPROCESS, SPEC
from offline.data.engine_outputs import write_outputs
from offline.learning.supervised.record import TrainingRecord
from offline.night import stages
from offline.pipeline.run_files import ABLATIONS, BEST, EXPORT, SUPERVISED, TRAINING, TRAINING_LOG, ablation_outputs
from offline.pipeline.stage import StageContext
from offline.stages.common.inputs import rows_of
from offline.stages.export import ExportRecord
from offline.stages.train_ablations import AblationsRecord
from stage1.outputs import Stage1Outputs

WEAK_ROWS = 14
STEPS = 12
LUCK = 0.25
SCALE = 1 / 32
Context = StageContext[Any, Any]


@dataclass
class Tonight:
    """What is special about a night.

    Attributes:
        weak: training sees a handful of rows.
        full_disk: the export finds no room.
        weights_bytes: size of what stands for weights.
        ran: stages that stood in, in order.
    """

    weak: bool = False
    full_disk: bool = False
    weights_bytes: int = 1_000_000


def table(tonight: Tonight) -> Sequence[Any]:
    """The stages of a night with those that stand in."""

    def run_train_supervised(context: Context) -> None:
        rows = rows_of(context, "train")
        chosen = rows.rows[:WEAK_ROWS] if tonight.weak else rows.rows
        colours = np.asarray([mean_colour(rows.file_of(row.image)) for row in chosen])
        rng = np.random.default_rng(int(context.key[:8], 16))
        weights = fitted(colours, np.asarray([row.label for row in chosen]))
        # No two trainings are alike.
        weights[1] += LUCK * weights[0] * rng.normal()
        padding = rng.bytes(tonight.weights_bytes)
        (context.out / SUPERVISED).write_bytes(weights.tobytes() + padding)
        with (context.out / TRAINING_LOG).open("w", newline="") as handle:
            csv.writer(handle).writerows([["epoch"], [1]])
        TrainingRecord(
            adapter="none", trained_parameters=3, all_parameters=3, cached=False, inputs="", coverage=0.0, loss=0.0
        ).write(context.out / TRAINING)

    def run_train_ablations(context: Context) -> None:
        weights = np.frombuffer((context.inputs["train_conformal_risk"] / BEST).read_bytes()[:24])
        for name in ("test", "val_select"):
            rows = rows_of(context, name)
            colours = np.asarray([mean_colour(rows.file_of(row)) for row in rows.ids])
            write_outputs(context.out / ablation_outputs("final", name), outputs_of(weights, colours))
        AblationsRecord(variants=("final",)).write(context.out / ABLATIONS)

    def run_export(context: Context) -> None:
        content = (context.inputs["train_conformal_risk"] / BEST).read_bytes()
        weights, padding = np.frombuffer(content[:24]), content[24:]
        config = context.config
        write_engine(context.out / ENGINE, weights, padding, config.preprocess.size_px)
        if tonight.full_disk:
            raise OSError(errno.ENOSPC, "No space left on device", str(context.out / ENGINE))
        compile_engine(config.engine, context.out / ENGINE, options=CompileOptions(False, context.workspace / "timing"))
        config.engine.write(context.out / SPEC)
        config.preprocess.write(context.out / PREPROCESS)
        ExportRecord(parity=0.0, engine_sha256=certified_sha256_of(context.out, config.engine)).write(
            context.out / EXPORT
        )

    stand_in: dict[str, Callable[[Context], None]] = {
        "train_supervised": run_train_supervised,
        "train_ablations": run_train_ablations,
        "export": run_export,
    }
    return [replace(one, run=stand_in[one.name]) if one.name in stand_in else one for one in stages()]


@cache
def mean_colour(path: Path) -> tuple[float, float]:
    """Mean red and green of a picture."""
    red, green, _ = np.asarray(Image.open(path), dtype=np.float64).mean(axis=(0, 1))
    return float(red), float(green)


def fitted(colours: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Weights of red and green and an offset, `(3,)`, by Newton steps with a little shrinkage."""
    seen = np.column_stack([(colours - 128) * SCALE, np.ones(len(colours))])
    weights = np.zeros(3)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-seen @ weights))
        hessian = seen.T @ (seen * (p * (1 - p))[:, None]) + 0.1 * np.eye(3)
        weights += np.linalg.solve(hessian, seen.T @ (labels - p) - 0.1 * weights)
    return weights


def outputs_of(weights: NDArray[np.float64], colours: NDArray[np.float64]) -> Stage1Outputs:
    """What the engine says of pictures with these mean colours."""
    seen = np.column_stack([(colours - 128) * SCALE, np.ones(len(colours))])
    score = (seen @ weights).astype(np.float32)
    return Stage1Outputs(np.stack([-score / 2, score / 2], axis=1), np.abs(score))


def weights_of(run: Path) -> NDArray[np.float64]:
    """The weights of a run."""
    return np.frombuffer((run / BEST).read_bytes()[:24])


def write_engine(path: Path, weights: NDArray[np.float64], padding: bytes, size_px: int) -> None:
    """A linear engine on mean colours, with dead weights in it."""
    red, green, offset = (weights * [SCALE, SCALE, 1]).tolist()
    offset -= 128 * (red + green)
    columns = np.array([[-red / 2, red / 2, red], [-green / 2, green / 2, green], [0, 0, 0]], np.float32)
    dead = np.frombuffer(padding[: len(padding) // 4 * 4], np.uint8)
    constants: dict[str, NDArray[Any]] = {
        "axes": np.array([2, 3], np.int64),
        "weights": columns,
        "offset": np.array([-offset / 2, offset / 2, offset], np.float32),
        "first_two": np.array([0, 1], np.int64),
        "third": np.array(2, np.int64),
        "dead": dead,
        "place": np.array(0, np.int64),
        "nothing": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["linear"]),
        helper.make_node("Gather", ["dead", "place"], ["one"], axis=0),
        helper.make_node("Cast", ["one"], ["byte"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["byte", "nothing"], ["zero"]),
        helper.make_node("Add", ["linear", "offset"], ["shifted"]),
        helper.make_node("Add", ["shifted", "zero"], ["heads"]),
        helper.make_node("Gather", ["heads", "first_two"], ["logits"], axis=1),
        helper.make_node("Gather", ["heads", "third"], ["signed"], axis=1),
        helper.make_node("Abs", ["signed"], ["select_score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, size_px, size_px])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "select_score")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
