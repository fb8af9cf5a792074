"""The compiled engine of a run: opened, told apart from the reference, and what of this machine decides its numbers."""

from __future__ import annotations

import numpy as np

from engines.backends import open_engine
from engines.bundle import ENGINE, SPEC
from engines.device import find_gpu
from engines.engine import REFERENCE, Backend, Engine, EngineSpec
from engines.onnx_engine import OnnxEngine
from offline.calibrating import run_engine
from offline.config import RunConfig
from offline.pipeline import StageContext, installed
from offline.stage_inputs import DRIFT, rows_of
from offline.stage_records import DriftRecord
from stage1.certificate import ScrcParams
from stage1.policy import ScrcPolicy
from stage1.rows import LabelledOutputs

# Some are installed under more than one name. The reference is always there to be compared with.
PACKAGES: dict[Backend, tuple[str, ...]] = {
    "onnxruntime": (),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-rtx"),
}
REFERENCE_PACKAGES = ("onnxruntime", "onnxruntime-gpu")


def machine_of(config: RunConfig) -> str:
    """What of this machine decides the numbers of the config's engine: versions of its runtime, and the GPU."""
    spec = config.engine
    versions = {name: installed(name) for name in (*REFERENCE_PACKAGES, *PACKAGES[spec.backend])}
    gpu = "" if spec.device == "cpu" else find_gpu().model_dump_json(exclude={"free_bytes"})
    return f"{versions} {gpu}"


def compiled_engine(context: StageContext) -> Engine:
    """The compiled engine: whose numbers are certified, and which serves."""
    export = context.inputs["export"]
    return open_engine(EngineSpec.read(export / SPEC), export / ENGINE)


def write_drift(context: StageContext, engine: Engine, ours: LabelledOutputs, params: ScrcParams) -> None:
    """What another engine than the reference changes on val_select; writes `drift.json`."""
    spec = engine.describe().spec
    if spec == REFERENCE:
        return
    rows, preprocess = rows_of(context, "val_select"), context.config.preprocess
    reference = OnnxEngine(context.inputs["export"] / ENGINE)
    theirs = run_engine(reference, rows, preprocess, context.progress.step, "val_select, in fp32")
    policy = ScrcPolicy(params)
    decided = policy.decide(ours.outputs).exit_label != policy.decide(theirs.outputs).exit_label
    away = np.abs(ours.outputs.roadwork_score - theirs.outputs.roadwork_score)
    DriftRecord(engine=str(spec), rows=len(rows), largest=float(away.max()), decided=int(decided.sum())).write(
        context.out / DRIFT
    )
