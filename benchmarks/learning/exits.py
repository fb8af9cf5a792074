"""Who exits: by rules that are really calibrated, on groups that nothing was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.arena import Arena, Rows
from benchmarks.learning.methods import Method
from benchmarks.learning.scale import FALSE_ALARMS, LOOSE, STRICT
from stage1.baselines.softmax import ThresholdPolicy
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.decisions import DEFERRED
from stage1.outputs import Stage1Outputs
from stage1.policy import RulePolicy, ScrcPolicy

CONTEXT = CalibrationContext("0" * 64, "0" * 64, code_version="benchmark")
SELECTING_SHARE = 3


@dataclass(frozen=True)
class Exits:
    """Decisions for the test rows.

    Attributes:
        labels: label each row exits with, -1 where it is deferred, int8 `(N,)`.
        feasible: calibrations that certified a rule.
        tried: calibrations.
        reason: why one of the others did not.
    """

    labels: NDArray[np.int8]
    feasible: int = 0
    tried: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Answered:
    """What one trained network says of the test rows.

    Attributes:
        test: its outputs.
        confidence: what it ranks by, `(N,)`.
        exits: by the level that was to be certified; of a baseline, its fixed thresholds for both.
        uncertified: by a rule for the laxer level that nothing certifies.
    """

    test: LabelledOutputs
    confidence: NDArray[np.float32]
    exits: Mapping[float, Exits]
    uncertified: Exits


def answered(arena: Arena, method: Method, kept: Mapping[str, NDArray[np.generic]]) -> Answered:
    """Decide what exits, from what a task kept.

    Args:
        arena: data.
        method: that was trained.
        kept: rows and outputs.
    """
    held = _Kept(arena, kept, "held")
    test = held.of(arena.test)
    if method.softmax:
        fixed = Exits(ThresholdPolicy().decide(test.outputs).exit_label)
        return Answered(test, np.abs(test.outputs.roadwork_score), {STRICT: fixed, LOOSE: fixed}, fixed)
    if len(arena.calib):
        chose, calib = _Kept(arena, kept, "select").of(arena.folds[0].val_select), held.of(arena.calib)
        exits = {alpha: _certified(chose, calib, test, alpha) for alpha in (STRICT, LOOSE)}
        free = Exits(RulePolicy(select(chose, _settings(LOOSE)).chosen).decide(test.outputs).exit_label)
    else:
        exits = {alpha: _in_turns(test, alpha) for alpha in (STRICT, LOOSE)}
        free = _frames_in_turns(test)
    return Answered(test, test.outputs.select_score, exits, free)


@dataclass(frozen=True)
class _Kept:
    """Outputs of a task for some of the rows of an arena."""

    arena: Arena
    kept: Mapping[str, NDArray[np.generic]]
    name: str

    def of(self, rows: Rows) -> LabelledOutputs:
        place = {row: i for i, row in enumerate(self.kept[f"{self.name}_rows"].tolist())}
        index = np.asarray([place[row] for row in rows.tolist()], np.intp)
        outputs = Stage1Outputs(self.kept[f"{self.name}_logits"], self.kept[f"{self.name}_score"])  # type: ignore[arg-type]
        return self.arena.labelled(outputs.rows(index), rows)


def _settings(alpha: float) -> CalibrationSettings:
    return CalibrationSettings(alpha=alpha, false_alarm_rate=FALSE_ALARMS)


def _certified(chose: LabelledOutputs, calib: LabelledOutputs, test: LabelledOutputs, alpha: float) -> Exits:
    params = calibrate(chose, calib, _settings(alpha), CONTEXT)
    labels = ScrcPolicy(params).decide(test.outputs).exit_label
    return Exits(labels, int(params.rule is not None), 1, params.reason)


def _in_turns(test: LabelledOutputs, alpha: float) -> Exits:
    """Each group exits by a rule that a third of the others chose and the rest of them certified."""
    labels = np.full(len(test), DEFERRED, np.int8)
    found: list[Exits] = []
    names = np.asarray(test.groups)
    for group in np.unique(names):
        others = np.unique(names[names != group])
        chose = np.flatnonzero(np.isin(names, others[::SELECTING_SHARE]))
        calib = np.flatnonzero((names != group) & ~np.isin(names, others[::SELECTING_SHARE]))
        here = np.flatnonzero(names == group)
        found.append(_certified(test.pick(chose), test.pick(calib), test.pick(here), alpha))
        labels[here] = found[-1].labels
    reason = next((exits.reason for exits in found if exits.reason), "")
    return Exits(labels, sum(exits.feasible for exits in found), len(found), reason)


def _frames_in_turns(test: LabelledOutputs) -> Exits:
    """Each group exits by the rule that the frames of the others would choose, as if frames were independent."""
    labels = np.full(len(test), DEFERRED, np.int8)
    names = np.asarray(test.groups)
    settings = CalibrationSettings(alpha=LOOSE, false_alarm_rate=FALSE_ALARMS, unit="row")
    for group in np.unique(names):
        here = np.flatnonzero(names == group)
        rule = select(test.pick(np.flatnonzero(names != group)), settings).chosen
        labels[here] = RulePolicy(rule).decide(test.pick(here).outputs).exit_label
    return Exits(labels)
