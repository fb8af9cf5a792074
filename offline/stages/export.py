"""What the stages of a night write down of themselves."""

from __future__ import annotations

from typing import ClassVar

from engines.backends.compiled import compile_engine
from engines.spec import twin
from engines.store.bundle import ENGINE, PREPROCESS, SPEC, certified_sha256_of
from offline.data.dataset import Dataset
from offline.pipeline.run_files import BEST
from offline.pipeline.stage import StageContext
from offline.stages.inputs import network_of, rows_of
from stage1.artifacts import Artifact


class ExportRecord(Artifact):
    """`export.json`: largest difference between torch and the graph in ONNX Runtime, and what a certificate is for."""

    SCHEMA_VERSION: ClassVar[int] = 1

    parity: float
    engine_sha256: str


def run_export(context: StageContext) -> None:
    """Export to ONNX, prove it equal to torch, and compile that for the engine of the config.

    Writes `model.onnx`, what the engine needs beside it, `spec.json` and `preprocess.json`.
    """
    from offline.certify.onnx_export import PARITY_BATCHES, check_export, export_bf16, export_onnx  # noqa: PLC0415
    from stage1.model.weights import load_weights  # noqa: PLC0415

    config = context.config
    net = network_of(context, trained=True).cpu()
    load_weights(net, context.inputs["train_conformal_risk"] / BEST)
    path = context.out / ENGINE
    export_onnx(net, path, config.preprocess.size_px)
    rows = rows_of(context, "val_select")
    sample = Dataset(rows.root, rows.rows[: max(PARITY_BATCHES)])
    parity = check_export(net, path, sample.array(config.preprocess))
    spec = config.engine
    if spec.backend == "tensorrt" and spec.precision == "bf16":
        # A strongly typed engine takes its precision from the graph.
        export_bf16(net, twin(path, "bf16"), config.preprocess.size_px)
    compile_engine(spec, path, refittable=config.compile.refittable, timing_cache=context.workspace / "timing")
    spec.write(context.out / SPEC)
    config.preprocess.write(context.out / PREPROCESS)
    digest = certified_sha256_of(context.out, spec)
    ExportRecord(parity=parity, engine_sha256=digest).write(context.out / "export.json")
