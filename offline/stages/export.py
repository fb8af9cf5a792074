"""The stage that exports the trained network to ONNX and compiles it for the engine of the config."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from engines.backends.backend import CompileOptions
from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import backend, compile_engine, open_engine
from engines.batches import BUCKETS, MOST, in_batches
from engines.engine import Engine
from engines.spec import REFERENCE, EngineSpec, twin
from engines.store.bundle import certified_sha256_of
from engines.store.file_names import ENGINE, PREPROCESS, SPEC
from offline.certify.engine_agreement import machine_of, reference_gate
from offline.data.dataset import Dataset
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import BEST, EXPORT
from offline.pipeline.stage import Stage
from offline.stages.common.inputs import rows_of
from offline.stages.common.outside_files import backbone_files
from offline.stages.common.seen_rows import PICTURES, RowsOf
from stage1.artifacts import Artifact
from stage1.preprocess import Pixels

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.stages.common.context import Context, NightStage


class ExportRecord(Artifact):
    """`export.json`: largest difference between torch and the graph in ONNX Runtime, and what a certificate is for."""

    SCHEMA_VERSION: ClassVar[int] = 1

    parity: float
    engine_sha256: str


def run_export(context: Context) -> None:
    """Export to ONNX, prove it equal to torch, and compile that for the engine of the config.

    Writes `model.onnx`, what the engine needs beside it, `spec.json` and `preprocess.json`.
    """
    from offline.certify.onnx_export import PARITY_BATCHES, check_export, export_bf16, export_onnx  # noqa: PLC0415
    from offline.stages.common.network import network_of  # noqa: PLC0415
    from stage1.model.weights import load_weights  # noqa: PLC0415

    config = context.config
    net = network_of(context, trained=True, seed=0).cpu()
    load_weights(net, context.inputs["train_conformal_risk"] / BEST)
    path = context.out / ENGINE
    export_onnx(net, path, config.preprocess.shape)
    rows = rows_of(context, "val_select")
    sample = rows.only(rows.rows[: max(*PARITY_BATCHES, *BUCKETS)]).through_copies().array(config.preprocess)
    parity = check_export(net, path, sample)
    spec = config.engine
    if backend(spec.backend).graph_precision(spec) == "bf16":
        export_bf16(net, twin(path, "bf16"), config.preprocess.shape)
    refittable = spec.backend == "tensorrt" and config.compile.refittable
    gate = None if spec == REFERENCE else _gate(spec, path, sample)
    options = CompileOptions(refittable, context.workspace / "timing", gate=gate)
    compile_engine(spec, path, options=options)
    if gate is not None:
        with closing(open_engine(spec, path)) as engine:
            gate(engine)
    spec.write(context.out / SPEC)
    config.preprocess.write(context.out / PREPROCESS)
    digest = certified_sha256_of(context.out, spec)
    ExportRecord(parity=parity, engine_sha256=digest).write(context.out / EXPORT)


def _gate(spec: EngineSpec, path: Path, sample: Pixels) -> Callable[[Engine], None] | None:
    """Compares the engine with the reference on some rows of val_select, before any row is spent on it."""
    with closing(OnnxEngine(path)) as reference:
        return reference_gate(spec, sample, in_batches(reference, sample, MOST))


def reads(config: RunConfig) -> Reads[Dataset]:
    """The trained network, the engine, and pictures of val_select to try both on."""
    refits = config.engine.backend == "tensorrt"
    return Reads(
        settings=("preprocess", "model", "engine", *(("compile",) if refits else ())),
        files={"train_conformal_risk": (BEST,)},
        rows=RowsOf({"val_select": PICTURES}),
        outside=tuple(backbone_files(config)),
    )


STAGE: NightStage = Stage(
    name="export",
    needs=("splits", "train_conformal_risk"),
    reads=reads,
    run=run_export,
    distributions=("torch", "transformers", "peft", "onnx", "onnxscript"),
    machine=lambda config: machine_of(config.engine),
)
