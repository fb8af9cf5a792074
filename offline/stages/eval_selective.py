"""The stage that evaluates on the test rows and writes the report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import StoreError
from engines.store.file_names import CALIBRATOR, METRICS, PAGE, PARAMS, PREPROCESS
from engines.store.stage2_scores import score_files
from offline.certify.engine_agreement import machine_of
from offline.certify.sample_words import sample_words
from offline.certify.second_look import SecondLook
from offline.data.checks.preflight import PREFLIGHT, PreflightReport
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.evaluation.cascade_curve import CascadeFile, Stage1Answers, WholeCascade
from offline.evaluation.evaluate import EvaluationSettings, evaluate, metrics_csv
from offline.evaluation.stream_cells import judge_cells
from offline.learning.race.outcome import RaceRecord
from offline.learning.self_distillation.record import AdaptationRecord
from offline.learning.supervised.record import TrainingRecord
from offline.pipeline.reads import Reads
from offline.pipeline.run_files import (
    ADAPTATION,
    BEST,
    CASCADE,
    RACE,
    REFERENCES,
    REPORT,
    SCORING,
    SECOND_LOOK,
    THRESHOLDS,
    TRAINING,
)
from offline.pipeline.settings_view import ALL
from offline.pipeline.stage import Stage
from offline.report.cascade_section import cascade_section
from offline.report.page import render
from offline.report.race_section import SHOWN, race_section
from offline.report.row_notes import NOTED, row_notes
from offline.report.thumbnails import thumbnails
from offline.report.where_it_looked import Look, looks_at
from offline.splits.splits_file import Splits
from offline.stages.common.compiled_engine import compiled_engine, scoring_engine
from offline.stages.common.declared import STREAM
from offline.stages.common.distributions import FOR_JUDGEMENT
from offline.stages.common.inputs import rows_of, splits_of
from offline.stages.common.outside_files import backbone_files
from offline.stages.common.seen_rows import LABELLED, PICTURES, RowsOf, Seen
from offline.stream.sender import every_sender, sender_of
from offline.whole_cascade import cascades_of, stage1_answers
from stage1.artifacts import write_atomic
from stage1.baselines.literature import ReferenceRules
from stage1.baselines.softmax import Thresholds
from stage1.certificate.params import ScrcParams
from stage1.errors import ArtifactError, CalibrationError
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.stages.common.context import Context, NightStage


def run_eval_selective(context: Context) -> None:
    """Evaluate on the test rows.

    Writes `metrics.csv`, `scoring.json`, `report.json`, `cascade.json` with what both stages together do by the scores
    that the store keeps of Stage-2 servers, and `report.html`.
    """
    export, calibrated = context.inputs["export"], context.inputs["calibrate_scrc"]
    params = ScrcParams.read(calibrated / PARAMS)
    calibrator = ProbabilityCalibrator.read(calibrated / CALIBRATOR)
    preprocess = PreprocessSettings.read(export / PREPROCESS)
    engine, told = compiled_engine(context), context.progress.step
    originals = rows_of(context, "test")
    rows = originals.sent_by(sender_of(params))
    test = run_engine(engine, rows, preprocess, told, "test")
    # Where a picture comes from is a column of its own, and a subgroup like any other.
    test = replace(test, metadata={**test.metadata, "source": [row.source for row in rows.rows]})
    most = context.config.eval_selective.cell_rows
    sent = 0 if params.rule is None else min(most, len(originals)) * len(every_sender(params.seed))
    with scoring_engine(context, engine, sent) as (scoring, scored):
        cells = judge_cells(scoring, originals.through_copies(), params, preprocess, most=most, progress=told)
    scored.write(context.out / SCORING)
    rules, thresholds = ReferenceRules.read(calibrated / REFERENCES), Thresholds.read(calibrated / THRESHOLDS)
    report = evaluate(test, params, calibrator, rules, thresholds, EvaluationSettings(seed=context.config.seed), cells)
    report.write(context.out / REPORT)
    write_atomic(context.out / METRICS, metrics_csv(report).encode())
    cascades, left_out = _cascades(context, stage1_answers(test, params, calibrator), rows, params, preprocess)
    CascadeFile(cascades=cascades).write(context.out / CASCADE)
    pictures = thumbnails(rows, [mistake.row for mistake in report.mistakes], preprocess)
    again = thumbnails(context.data.through_copies(), SecondLook.read(calibrated / SECOND_LOOK).rows, preprocess)
    # Which run wrote it is not in its key, so it is for the stage that publishes to say.
    title = "Stage-1 report"
    splits = splits_of(context)
    adapted = context.inputs["adapt_domain"] / ADAPTATION
    adaptation = (AdaptationRecord.read(adapted).verdict,) if adapted.exists() else ()
    page = render(
        report,
        params,
        title=title,
        data=f"{_about(rows, splits)} {scored.words}".rstrip(),
        thumbnails=pictures,
        looks=_looks(context, rows, [mistake.row for mistake in report.mistakes], preprocess),
        second_look=again,
        notes=(
            *row_notes(PreflightReport.read(context.inputs["splits"] / PREFLIGHT), splits),
            *adaptation,
            *TrainingRecord.read(context.inputs["train_supervised"] / TRAINING).notes(),
        ),
        race=_race(context, preprocess),
        cascade=cascade_section(cascades, infeasible=params.rule is None, left_out=left_out),
    )
    write_atomic(context.out / PAGE, page.encode())


def _cascades(
    context: Context, test: Stage1Answers, rows: Dataset, params: ScrcParams, preprocess: PreprocessSettings
) -> tuple[tuple[WholeCascade, ...], str]:
    """What both stages do together, and why that is left out, if it is: no bundle depends on it."""
    select = rows_of(context, "val_select").sent_by(sender_of(params))
    seed, told = context.config.seed, context.progress.step
    try:
        return cascades_of(context.store.root, test, rows, select, preprocess, seed=seed, told=told), ""
    except (StoreError, ArtifactError, CalibrationError) as error:
        return (), str(error)


def _race(context: Context, preprocess: PreprocessSettings) -> str:
    """The part of the page on recipes and labels; none where a kept run is only compiled anew."""
    home = context.inputs.get("race")
    if home is None:
        return ""
    race = RaceRecord.read(home / RACE)
    shown = [one.row for one in race.suspects[:SHOWN]]
    return race_section(race, thumbnails(context.data.through_copies(), shown, preprocess))


def _looks(context: Context, rows: Dataset, ids: list[str], preprocess: PreprocessSettings) -> dict[str, Look]:
    """Where the network that was exported looked at some of the rows; nowhere if its pool does not look."""
    if context.config.model.pooling != "attention" or not ids:
        return {}
    from offline.learning.attention_maps import attention_maps  # noqa: PLC0415
    from offline.stages.common.network import network_of  # noqa: PLC0415
    from stage1.model.weights import load_weights  # noqa: PLC0415

    net = network_of(context, trained=True, seed=0)
    load_weights(net, context.inputs["train_conformal_risk"] / BEST)
    images = dict(zip(ids, rows.pick(ids).pixels(preprocess), strict=True))
    return looks_at(images, attention_maps(net, np.stack([*images.values()])))


def _about(rows: Dataset, splits: Splits) -> str:
    sources = sorted({row.source or "unnamed source" for row in rows.rows})
    text = f"Data: {', '.join(sources)}."
    if "synthetic" in sources:
        text += " Synthetic pictures say nothing about accuracy on real streets."
    test = splits.places.get("test")
    if test is not None and test.places:
        text += f" {test.in_train} of {test.places} places of test are in train as well."
    return f"{text} {sample_words(splits)}"


def reads(config: RunConfig) -> Reads[Dataset]:
    """All that is known of the test rows, pictures of the others, and what the stages before have found."""
    looks = config.model.pooling == "attention"
    return Reads(
        settings=("seed", "eval_selective", "preprocess", "model" if looks else "model.pooling", *STREAM),
        files={
            "splits": (PREFLIGHT,),
            "adapt_domain": (ADAPTATION,),
            "race": (RACE,),
            "train_supervised": (TRAINING,),
            "train_conformal_risk": (BEST,) if looks else (),
            "export": (ALL,),
            "calibrate_scrc": (PARAMS, CALIBRATOR, REFERENCES, THRESHOLDS, SECOND_LOOK),
        },
        rows=RowsOf(
            {
                "train": PICTURES,
                "val_select": LABELLED,
                "val_calib": PICTURES,
                "test": Seen(("label", "group", "source"), (ALL,)),
            },
            facts=(*NOTED, "places", "lost"),
        ),
        outside=tuple(backbone_files(config)) if looks else (),
    )


STAGE: NightStage = Stage(
    name="eval_selective",
    needs=(
        "splits",
        "adapt_domain",
        "race",
        "train_supervised",
        "train_conformal_risk",
        "export",
        "calibrate_scrc",
    ),
    reads=reads,
    run=run_eval_selective,
    distributions=("torch", "transformers", "peft", *FOR_JUDGEMENT),
    in_store=score_files,
    machine=lambda config: machine_of(config.engine),
)
