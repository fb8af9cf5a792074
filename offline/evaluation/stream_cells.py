"""How a certified rule does on each way in which validators sent pictures: every era at every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.engine import Engine
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.stream.sender import draw_key, every_sender
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Rate, Risk, conditions
from stage1.policy import Policy, ScrcPolicy
from stage1.preprocess import PreprocessSettings


class CellReport(BaseModel):
    """What a rule does on pictures that were all sent in one way; each bound holds by itself.

    Attributes:
        cell: `originals`, or an era and a level.
        rows: rows that were sent.
        positives: positive units among them.
        exits: units that exit.
        misses: positive units that exit as no roadwork, among those that exit.
        false_alarms: negative units that exit as roadwork, among all negative ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    rows: int
    positives: int
    exits: Rate
    misses: Rate
    false_alarms: Rate


def judge_cells(
    engine: Engine,
    rows: Dataset,
    params: ScrcParams,
    preprocess: PreprocessSettings,
    *,
    most: int,
    progress: Callable[[int, int, str], None],
) -> tuple[CellReport, ...]:
    """Send rows in every way there is, and count what the certified rule does.

    Args:
        engine: whose numbers were certified, or one that says the same.
        rows: that trained, chose and certified nothing; those that came as they were sent are left out.
        params: the rule; without one nothing exits, and nothing is sent.
        preprocess: what the engine sees of an image.
        most: rows that are sent in each way, picked by hash.
        progress: called with images done, images in all, and a note.

    Returns:
        One report a way, originals first; empty without a rule or without rows to send.

    Raises:
        DatasetError: an image cannot be read.
    """
    if params.rule is None or not most:
        return ()
    ordered = sorted((row for row in rows.rows if not row.as_sent), key=lambda row: draw_key(params.seed, row.image))
    if not ordered:
        return ()
    picked = replace(rows, rows=tuple(ordered[:most]))
    policy = ScrcPolicy(params)
    return tuple(
        judge_cell(name, run_engine(engine, picked.sent_by(sender), preprocess, progress, name), policy, params)
        for name, sender in every_sender(params.seed).items()
    )


def judge_cell(cell: str, found: LabelledOutputs, policy: Policy, params: ScrcParams) -> CellReport:
    """Count what a policy does on rows that were sent in one way, by the unit of its certificate."""
    decisions = policy.decide(found.outputs)
    units, everything = found.units(params.unit, params.seed), np.ones(len(found), bool)
    misses = conditions(Risk.MISS_EXIT, found.labels, decisions, everything)
    return CellReport(
        cell=cell,
        rows=len(found),
        positives=len(units.representatives(found.positive)),
        exits=Rate.count(*units.count(everything, decisions.exits), params.delta),
        misses=Rate.count(*units.count(*misses), params.delta),
        false_alarms=Rate.count(*units.count(~found.positive, decisions.exit_label == 1), params.delta),
    )
