"""The compiled engine of a run: opened, and told apart from the reference."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import open_engine
from engines.engine import Engine
from engines.spec import REFERENCE, EngineSpec
from engines.store.file_names import ENGINE, SPEC
from offline.certify.engine_agreement import check_agreement, correlation
from offline.certify.scoring_engine import ScoringRecord, Trials, candidates, compiled
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.pipeline.run_files import DRIFT
from offline.pipeline.stage import SCORING
from offline.stages.common.sent_rows import sent_rows_of
from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.policy import ScrcPolicy

if TYPE_CHECKING:
    from offline.stages.common.context import Context


# With fewer pictures to score, comparing engines takes longer than it saves.
FEWEST_SCORED, COMPARED = 1000, 64


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


@contextmanager
def scoring_engine(context: Context, serving: Engine, pictures: int) -> Iterator[tuple[Engine, ScoringRecord]]:
    """The engine for pictures that certify nothing: the serving one, or a faster one that says the same.

    Args:
        context: of the stage.
        serving: whose numbers are certified; stays open.
        pictures: how many are to be scored.
    """
    spec, wanted = serving.describe().spec, context.config.eval_selective.cell_engine
    others = candidates(spec) if wanted == "fastest" and pictures >= FEWEST_SCORED else []
    if not others:
        yield serving, ScoringRecord(serving=spec, engine=spec)
        return
    rows, graph = sent_rows_of(context, "val_select"), context.inputs["export"] / ENGINE
    some = replace(rows, rows=rows.rows[:COMPARED]).array(context.config.preprocess)
    with TemporaryDirectory(dir=context.workspace, prefix=SCORING) as home:

        def opened(other: EngineSpec) -> Engine:
            return compiled(other, graph, Path(home) / str(other).replace(" ", "-"))

        engine, record = Trials(some, time.perf_counter).choose(serving, others, opened)
        try:
            yield engine, record
        finally:
            if engine is not serving:
                engine.close()


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
