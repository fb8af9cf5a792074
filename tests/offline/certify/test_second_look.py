"""Labels of val_calib that a person should look at again."""

from __future__ import annotations

from collections.abc import Callable

from offline.certify.second_look import second_look
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings

Maker = Callable[..., LabelledOutputs]


def certified(binormal: Maker) -> tuple:
    settings = CalibrationSettings(alpha=0.05, grid_size=40, gate_size=5)
    calib = binormal(1200, seed=2, prefix="c")
    return calibrate(binormal(1200, seed=1, prefix="s"), calib, settings, CalibrationContext("e", "p")), calib


def test_missed_roadwork_and_what_exits_just_below_t0_are_among_as_many_others(binormal: Maker) -> None:
    params, calib = certified(binormal)
    shown = second_look(params, calib, seed=0).rows
    score = dict(zip(calib.row_ids, calib.outputs.roadwork_score.tolist(), strict=True))
    exits = dict(zip(calib.row_ids, params.rule.exit_labels(calib.outputs).tolist(), strict=True))
    label = dict(zip(calib.row_ids, calib.labels.tolist(), strict=True))
    missed = {row for row in calib.row_ids if exits[row] == 0 and label[row] == 1}
    near = sorted((row for row in calib.row_ids if exits[row] == 0 and label[row] == 0), key=score.__getitem__)[-24:]
    assert 0 < len(missed) < 24
    assert missed | set(near) <= set(shown)
    assert len(shown) == len(set(shown)) == 2 * (len(missed) + len(near))


def test_the_order_says_nothing_of_who_decided_something(binormal: Maker) -> None:
    params, calib = certified(binormal)
    shown = second_look(params, calib, seed=0).rows
    decided = [params.rule.exit_labels(calib.outputs)[calib.row_ids.index(row)] == 0 for row in shown]
    half = len(shown) // 2
    assert abs(sum(decided[:half]) - sum(decided[half:])) < half / 2
    assert second_look(params, calib, seed=0).rows == shown
    assert second_look(params, calib, seed=1).rows != shown


def test_where_nothing_is_certified_nothing_decided_anything(binormal: Maker) -> None:
    params, calib = certified(binormal)
    nothing = params.model_copy(update={"rule": None})
    assert second_look(nothing, calib, seed=0).rows == ()
