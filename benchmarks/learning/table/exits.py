"""Who exits: by the product's own choice of a rule, on calibrated log-odds, at equal risk for every row.

A calibrator is fitted on val_select. Where cities take turns, the rule of a fold is chosen on the answers of the other
folds; where there is a val_calib, it is chosen there, and certified by a rule that val_select chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.units.results import UnitResult
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.decisions import DEFERRED
from stage1.errors import CalibrationError
from stage1.outputs import Stage1Outputs
from stage1.policy import RulePolicy, ScrcPolicy
from stage1.probability.fit import fit_calibrator

LEVELS = (0.02, 0.05, 0.10)
FALSE_ALARMS = 0.05
CONTEXT = CalibrationContext("0" * 64, "0" * 64, code_version="benchmark")
SMALLEST = 1e-6


@dataclass(frozen=True)
class Answered:
    """What the networks of a row and a seed say of the rows that are reported.

    Attributes:
        data: calibrated log-odds, labels and groups of N rows; the selection score is the distance from even odds.
        folds: of each row, `(N,)`.
        exits: by level, the label that each row exits with, -1 where it is deferred; empty where no rule can be chosen.
        certified: by level, the share that exits by a certified rule, or None where none is.
        reason: why the laxest level was not certified; empty if it was.
    """

    data: LabelledOutputs
    folds: NDArray[np.intp]
    exits: Mapping[float, NDArray[np.int8]]
    certified: Mapping[float, float | None]
    reason: str = ""


def answered(results: Mapping[int, UnitResult]) -> Answered:
    """Decide what exits.

    Args:
        results: of the folds of a row and a seed, by their numbers.
    """
    tests = {fold: calibrated(result, "test") for fold, result in results.items()}
    data = joined(list(tests.values()))
    folds = np.concatenate([np.full(len(test), fold, np.intp) for fold, test in tests.items()])
    only = next(iter(results.values()))
    if "val_calib" in only.answers:
        chose, calib, test = (calibrated(only, part) for part in ("val_select", "val_calib", "test"))
        exits = {level: _exits(calib, test, level) for level in LEVELS}
        certified, reason = _certified(chose, calib, test)
        return Answered(data, folds, exits, certified, reason)
    if len(tests) < 2:
        return Answered(data, folds, {}, {}, "one fold alone cannot choose its own rule")
    exits = {level: _in_turns(data, folds, level) for level in LEVELS}
    first, *middle, last = np.unique(folds).tolist()
    if not middle:
        return Answered(data, folds, exits, dict.fromkeys(LEVELS), "two folds cannot choose, certify and be shown")
    chose, calib, test = (data.pick(np.flatnonzero(np.isin(folds, part))) for part in ([first], middle, [last]))
    certified, reason = _certified(chose, calib, test)
    return Answered(data, folds, exits, certified, reason)


def calibrated(result: UnitResult, part: str) -> LabelledOutputs:
    """Answers as log-odds that were calibrated on val_select, gated by nothing but themselves."""
    given = result.answers[part].labelled
    select_answers = result.answers["val_select"].labelled
    try:
        calibrator = fit_calibrator(select_answers.outputs, select_answers.labels)
    except CalibrationError:
        # A class is missing; the scores stay as they are.
        return _gated(given, given.outputs.roadwork_score.astype(np.float64))
    probability = np.clip(calibrator.probability(given.outputs), SMALLEST, 1 - SMALLEST)
    return _gated(given, np.log(probability / (1 - probability)))


def _gated(given: LabelledOutputs, log_odds: NDArray[np.float64]) -> LabelledOutputs:
    logits = np.stack([-log_odds / 2, log_odds / 2], axis=1).astype(np.float32)
    outputs = Stage1Outputs(logits, np.abs(logits[:, 1] - logits[:, 0]))
    return replace(given, outputs=outputs)


def joined(parts: Sequence[LabelledOutputs]) -> LabelledOutputs:
    """Several sets as one."""
    return LabelledOutputs(
        Stage1Outputs.concatenate([part.outputs for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [row for part in parts for row in part.row_ids],
        [group for part in parts for group in part.groups],
    )


def _settings(level: float, *, by_row: bool) -> CalibrationSettings:
    # One look: nothing is certified again.
    return CalibrationSettings(
        alpha=level,
        false_alarm_rate=FALSE_ALARMS,
        unit="row" if by_row else "group",
        allow_row_unit=by_row,
        looks=1,
    )


def _exits(chose: LabelledOutputs, shown: LabelledOutputs, level: float) -> NDArray[np.int8]:
    """Labels of what exits, by the rule that other rows would choose."""
    rule = select(chose, _settings(level, by_row=True)).chosen
    return RulePolicy(rule).decide(shown.outputs).exit_label


def _in_turns(data: LabelledOutputs, folds: NDArray[np.intp], level: float) -> NDArray[np.int8]:
    labels = np.full(len(data), DEFERRED, np.int8)
    for fold in np.unique(folds):
        here = np.flatnonzero(folds == fold)
        labels[here] = _exits(data.pick(np.flatnonzero(folds != fold)), data.pick(here), level)
    return labels


def _certified(
    chose: LabelledOutputs, calib: LabelledOutputs, test: LabelledOutputs
) -> tuple[dict[float, float | None], str]:
    found: dict[float, float | None] = {}
    reason = ""
    for level in LEVELS:
        params = calibrate(chose, calib, _settings(level, by_row=False), CONTEXT)
        found[level] = None
        reason = params.reason
        if params.rule is not None:
            found[level], reason = float(ScrcPolicy(params).decide(test.outputs).exits.mean()), ""
    return found, reason
