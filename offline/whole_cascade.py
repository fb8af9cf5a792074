"""A bundle and what Stage-2 servers said: the rows that both stages are judged on, and the cascade on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.live.load.load_bundle import load_bundle
from engines.store.file_names import PARAMS, PREPROCESS, SPLITS
from engines.store.stage2_scores import scored_servers
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.data.known_rows import NotedRow, found_by_content
from offline.errors import DatasetError
from offline.evaluation.cascade_curve import CurveSettings, Stage1Answers, WholeCascade, whole_cascade
from offline.evaluation.evaluate import confidence_of
from offline.evaluation.stage2_answers import fitted, row_scores, sent_hashes
from offline.splits.settings import Split
from offline.splits.splits_file import Splits
from offline.stream.sender import sender_of
from stage1.baselines.softmax import ThresholdPolicy
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.policy import ScrcPolicy
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator
from stage1.probability.server_score import fitted_by

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class JudgedRows:
    """The rows of a bundle that a Stage-2 server is calibrated and judged on; those of val_calib are not among them.

    Attributes:
        bundle: id of the bundle.
        directory: of it.
        params: its certificate.
        preprocess: what its Stage-1 sees of a picture.
        val_select: rows that a calibrator may be fitted on, as they are sent.
        test: rows that are only reported on, as they are sent.
        missing: rows of both sets that are not in the data.
    """

    bundle: str
    directory: Path
    params: ScrcParams
    preprocess: PreprocessSettings
    val_select: Dataset
    test: Dataset
    missing: int


def judged_rows(directory: Path, data: Dataset) -> JudgedRows:
    """The rows of val_select and test of a bundle, known by the content of their files, or else by their paths.

    Args:
        directory: of the bundle.
        data: rows among which they are.

    Raises:
        DatasetError: none of a set is here, or a file cannot be read.
        ArtifactError: a file of the bundle is damaged.
    """
    splits, params = Splits.read(directory / SPLITS), ScrcParams.read(directory / PARAMS)
    sets: tuple[Split, ...] = ("val_select", "test")
    noted = [NotedRow(row=one.row, sha256=one.sha256) for name in sets for one in splits.sets[name].rows]
    here = data.called(found_by_content(noted, data))
    found: list[Dataset] = []
    for name in sets:
        ids = [row for row in splits.sets[name].ids if row in here.by_id]
        if not ids:
            raise DatasetError(
                f"{data.root}: none of the {len(splits.sets[name].rows)} rows of {name} of bundle {directory.name} is "
                "here: name the data that it was made of"
            )
        found.append(splits.pick(here, ids).sent_by(sender_of(params)))
    return JudgedRows(
        bundle=directory.name,
        directory=directory,
        params=params,
        preprocess=PreprocessSettings.read(directory / PREPROCESS),
        val_select=found[0],
        test=found[1],
        missing=len(noted) - sum(map(len, found)),
    )


def stage1_answers(rows: LabelledOutputs, params: ScrcParams, calibrator: ProbabilityCalibrator) -> Stage1Answers:
    """What Stage-1 answers and decides, by its certified policy and by the softmax baseline.

    Args:
        rows: outputs of its engine.
        params: its certificate.
        calibrator: of its answers.
    """
    probability = calibrator.probability(rows.outputs)
    return Stage1Answers(
        labels=rows.labels,
        groups=np.asarray(rows.groups, np.str_),
        probability=probability,
        confidence=confidence_of(rows, probability, params.gate_score),
        certified=ScrcPolicy(params).decide(rows.outputs),
        softmax=ThresholdPolicy().decide(rows.outputs),
    )


def bundle_answers(
    judged: JudgedRows, sets: Sequence[Dataset], told: Told, notes: Sequence[str]
) -> list[Stage1Answers]:
    """What a bundle answers and decides for sets of rows, each with a note for the progress.

    Raises:
        BundleRefused: it is damaged, or this machine does not run its engine.
        DatasetError: an image cannot be read.
    """
    with closing(load_bundle(judged.directory)) as bundle:
        return [
            stage1_answers(
                run_engine(bundle.engine, rows, bundle.preprocess, told, note), bundle.params, bundle.calibrator
            )
            for rows, note in zip(sets, notes, strict=True)
        ]


def cascades_of(
    root: Path,
    test: Stage1Answers,
    rows: Dataset,
    select: Dataset,
    preprocess: PreprocessSettings,
    *,
    seed: int,
    told: Told,
) -> tuple[WholeCascade, ...]:
    """The cascade with each server that a store has scores of; none where it has none of these rows.

    Each server is calibrated on val_select alone, as `cascade stage2 evaluate` does it for the live miner.

    Args:
        root: of the store.
        test: what Stage-1 says of the test rows.
        rows: the test rows, as they are sent.
        select: the rows of val_select, as they are sent.
        preprocess: limits of what is decoded.
        seed: of the bootstrap and of the orders of challenges.
        told: called with rows done, rows in all, and a note.

    Raises:
        DatasetError: an image cannot be read.
        StoreError: what the store keeps of a server is damaged.
        CalibrationError: the search for the best calibrator did not end.
    """
    if not (servers := scored_servers(root)):
        return ()
    images = sent_hashes(rows, preprocess, told, "test, for Stage-2")
    chosen = sent_hashes(select, preprocess, told, "val_select, for Stage-2")
    found = []
    for kept in servers:
        scores, fitting = row_scores(images, kept), row_scores(chosen, kept)
        calibrator = fitted(fitting, select.labels, np.asarray(select.groups, np.str_))
        cascade = whole_cascade(
            test,
            scores,
            scores.calibrated(calibrator),
            server=kept.server.name,
            model=kept.server.in_words,
            select_rows=0 if calibrator is None else fitted_by(calibrator)[1],
            settings=CurveSettings(seed=seed),
        )
        if cascade is not None:
            found.append(cascade)
    return tuple(found)
