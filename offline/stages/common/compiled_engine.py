"""The compiled engine of a run: opened, and told apart from the reference."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import open_engine
from engines.engine import Engine
from engines.spec import REFERENCE, EngineSpec
from engines.store.file_names import ENGINE, SPEC
from offline.certify.engine_agreement import check_agreement, correlation
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.pipeline.run_files import DRIFT
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.policy import ScrcPolicy

if TYPE_CHECKING:
    from offline.stages.common.context import Context


class DriftRecord(Artifact):
    """`drift.json`: what an engine that is not the reference changes on val_select; it is certified afterwards.

    Attributes:
        engine: the engine.
        rows: rows of val_select.
        correlation: of the roadwork scores with those of the reference.
        largest: largest difference of a roadwork score from that of the reference.
        decided: rows that its own certified rule decides otherwise on the scores of the reference.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    engine: str
    rows: int
    correlation: float
    largest: float
    decided: int


def compiled_engine(context: Context) -> Engine:
    """The compiled engine: whose numbers are certified, and which serves."""
    export = context.inputs["export"]
    return open_engine(EngineSpec.read(export / SPEC), export / ENGINE)


def agreed(context: Context, spec: EngineSpec, rows: Dataset, ours: LabelledOutputs) -> LabelledOutputs:
    """What the reference says of val_select, after making sure that an engine computes the same graph.

    Args:
        context: of the stage that certifies.
        spec: the engine.
        rows: of val_select.
        ours: what the engine says of them.

    Raises:
        ParityError: it is miscompiled.
    """
    if spec == REFERENCE:
        return ours
    with closing(OnnxEngine(context.inputs["export"] / ENGINE)) as reference:
        theirs = run_engine(reference, rows, context.config.preprocess, context.progress.step, "val_select, in fp32")
    check_agreement(spec, ours.outputs, theirs.outputs)
    return theirs


def write_drift(
    context: Context, spec: EngineSpec, ours: LabelledOutputs, theirs: LabelledOutputs, params: ScrcParams
) -> None:
    """What another engine than the reference changes on val_select; writes `drift.json`."""
    if spec == REFERENCE:
        return
    policy = ScrcPolicy(params)
    decided = policy.decide(ours.outputs).exit_label != policy.decide(theirs.outputs).exit_label
    away = np.abs(ours.outputs.roadwork_score - theirs.outputs.roadwork_score)
    DriftRecord(
        engine=str(spec),
        rows=len(ours.outputs),
        correlation=correlation(ours.outputs, theirs.outputs),
        largest=float(away.max()),
        decided=int(decided.sum()),
    ).write(context.out / DRIFT)
