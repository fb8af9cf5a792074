"""Nights on small data through calibration, golden images, publication and gate: how many bundles refuse themselves.

    python -m benchmarks.small_nights --nights 200

Each night draws its own pictures of one colour, with a linear engine that is right about most of them, and certifies a
loose claim so that thresholds lie among few scores. Golden images are rows of val_select. `moved` is added at random to
the golden outputs before they are stored: what another machine or another batch size would have given. A night dies if
its bundle cannot be loaded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from engines.backends.onnxruntime import OnnxEngine
from engines.batches import in_batches
from engines.store.bundle import Provenance, engine_sha256
from engines.store.file_names import CALIBRATOR, ENGINE, GOLDEN, PARAMS, PREPROCESS
from engines.store.golden import write_golden
from engines.store.store import Store
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import run_engine
from offline.pipeline.progress import Silence
from offline.publish.gate import Bench, judge
from offline.publish.settings import GateSettings
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from offline.stages.calibrate_scrc import golden_rows
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator

PIXELS = PreprocessSettings(size_px=32)
SETTINGS = CalibrationSettings(alpha=0.3, delta=0.4, unit="row", spending="single_use", false_alarm_rate=0.2)
SETS = {"val_select": 64, "val_calib": 120, "test": 60}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write_engine(path: Path) -> None:
    """Logits and selection score are linear in the mean colour; a convolution gives them a last bit."""
    weights = np.array([[-0.02, 0.02, 0.0], [0.0, 0.0, 0.04], [0.02, -0.02, 0.0]], np.float32) / 255
    constants: dict[str, np.ndarray] = {"axes": np.array([2, 3], np.int64), "weights": weights}
    constants |= {
        "first_two": np.array([0, 1], np.int64),
        "third": np.array(2, np.int64),
        "scale": np.array(255, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["small"]),
        helper.make_node("Mul", ["small", "scale"], ["heads"]),
        helper.make_node("Gather", ["heads", "first_two"], ["logits"], axis=1),
        helper.make_node("Gather", ["heads", "third"], ["select_score"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "select_score")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


def draw(rng: np.random.Generator, root: Path) -> dict[str, Dataset]:
    """Pictures of one colour, redder with roadwork."""
    sets = {}
    for name, count in SETS.items():
        rows = []
        for number in range(count):
            label = number % 2
            red = int(np.clip(128 + (1 if label else -1) * 40 + rng.normal(0, 30), 0, 255))
            file = f"{name}{number}.png"
            Image.new("RGB", (32, 32), (red, int(rng.integers(60, 256)), 255 - red)).save(root / file)
            rows.append(Row(image=file, label=label, group=file))
        sets[name] = Dataset(root, tuple(rows))
    return sets


def night(seed: int, moved: float, root: Path) -> tuple[str, str]:
    """Status of what was certified, and the verdict of the gate with its first reason."""
    rng = np.random.default_rng(seed)
    sets = draw(rng, root)
    files = root / "files"
    files.mkdir()
    write_engine(files / ENGINE)
    PIXELS.write(files / PREPROCESS)
    with closing(OnnxEngine(files / ENGINE, threads=1)) as engine:
        select, calib = (
            run_engine(engine, sets[name], PIXELS, Silence().step, name) for name in ("val_select", "val_calib")
        )
        golden = golden_rows(sets["val_select"], seed).array(PIXELS)
        said = in_batches(engine, golden, 16)
    params = calibrate(select, calib, SETTINGS, CalibrationContext(engine_sha256(files / ENGINE), PIXELS.sha256))
    params.write(files / PARAMS)

    def shaken(values: np.ndarray) -> Any:
        return values + rng.uniform(-moved, moved, values.shape).astype(np.float32)

    write_golden(files / GOLDEN, golden, Stage1Outputs(shaken(said.logits), shaken(said.select_score)))
    ProbabilityCalibrator().write(files / CALIBRATOR)
    named: Any = {
        name: SplitSet(
            rows=tuple(SplitRow(row=r, group=r) for r in part.ids), groups=len(part), positives=len(part) // 2
        )
        for name, part in sets.items()
    }
    named["train"] = SplitSet(rows=(), groups=0, positives=0)
    Splits(seed=0, data_sha256="d", sets=named, folds=(tuple(sets["val_calib"].ids),)).write(files / "splits.json")
    for name in ("config.json", "metrics.csv", "report.html"):
        (files / name).write_text("")
    store = Store(root / "store")
    provenance = Provenance(run="run", created_at=NOW.isoformat(), code_version="0", data_sha256="d")
    bundle = store.publish(files, provenance)
    verdict = judge(Bench(store, sets["test"], {}, GateSettings(repetitions=100), Silence(), NOW), store.path(bundle))
    return params.status, f"{verdict.verdict} {verdict.reasons[0] if verdict.reasons else ''}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=200)
    options = parser.parse_args()
    for moved in (0.0, 2e-6, 5e-4):
        statuses: Counter[str] = Counter()
        verdicts: Counter[str] = Counter()
        for seed in range(options.nights):
            with tempfile.TemporaryDirectory() as scratch:
                status, verdict = night(seed, moved, Path(scratch))
            statuses[status] += 1
            verdicts["died" if "cannot be loaded" in verdict else verdict.split()[0]] += 1
        print(f"golden outputs moved by at most {moved:g}: {dict(statuses)}, {dict(verdicts)}, died {verdicts['died']}")


if __name__ == "__main__":
    main()
