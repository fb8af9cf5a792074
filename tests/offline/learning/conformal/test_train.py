"""The stage on features with a hard sub-cluster: what a linear head gains, and one with a hidden layer does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.conformal_training import CALIBRATION, HIDDEN, Drawn, TableNet, supervised, trial
from offline.learning.conformal.held_out_match import MOST, matched_shares
from offline.learning.conformal.train import halves_of, train_conformal_risk
from offline.learning.settings import ConformalTrainingSettings

NEGATIVES, ERROR = 0, -1


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_linear_head_lets_more_exit_and_a_hidden_layer_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.learning.conformal.keep_rule.REPETITIONS", 200)
    drawn = Drawn.of(2)
    linear, hidden = trial(None, 2, drawn), trial(HIDDEN, 2, drawn, steps=50)
    assert linear.kept
    assert linear.stage[NEGATIVES] - linear.start[NEGATIVES] >= 0.08
    assert not hidden.kept
    assert np.array_equal(hidden.stage, hidden.start)
    # It starts from where the linear head cannot come to.
    assert hidden.start[NEGATIVES] > linear.stage[NEGATIVES]


def test_moved_scores_are_neither_gain_nor_loss() -> None:
    """A start whose cut is far off is judged by the order of its scores alone."""
    drawn, gains = Drawn.of(0, train=500, select=600, test=100), []
    settings = ConformalTrainingSettings(steps=1, learning_rate=1e-9)
    for moved in (0.0, 3.0):
        torch.manual_seed(0)
        net = TableNet(drawn.table, None)
        supervised(net, drawn, 0)
        with torch.no_grad():
            net.class_head.state_dict()["0.bias"].add_(torch.tensor([0.0, moved]))
        outcome = train_conformal_risk(
            net,
            drawn.images("train"),
            drawn.images("val_select"),
            settings,
            CALIBRATION,
            seed=0,
            progress=lambda *_: None,
        )
        gains.append((outcome.before, outcome.gain.value))
    assert gains[0] == pytest.approx(gains[1], abs=5e-3)


def test_rows_that_judge_choose_nothing() -> None:
    """Whatever they show, the same step is chosen and told."""
    drawn = Drawn.of(0, train=400, select=400, test=100)
    _, judge = halves_of(drawn.images("val_select"), 0)
    other = drawn.table.clone()
    other[torch.from_numpy(drawn.rows["val_select"][judge])] = 0.0
    found = []
    for table in (drawn.table, other):
        torch.manual_seed(0)
        net, told = TableNet(table, None), list[str]()
        outcome = train_conformal_risk(
            net,
            drawn.images("train"),
            drawn.images("val_select"),
            ConformalTrainingSettings(steps=25),
            CALIBRATION,
            seed=0,
            progress=lambda _done, _total, note, told=told: told.append(note),  # type: ignore[misc]
        )
        found.append((told, outcome.before))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


class TestMatchedShares:
    def test_scores_that_are_too_good_are_drawn_as_new_ones_spread(self) -> None:
        rng = np.random.default_rng(0)
        labels, held = np.repeat([0, 1], 3000), np.repeat([0, 1], 1000)
        score, new = rng.normal(labels * 4.0 - 2.0), rng.normal(held * 2.0 - 1.0)
        shares = matched_shares(score, labels, new, held)
        assert shares is not None
        assert shares.sum() == pytest.approx(1)
        for label in (0, 1):
            mine = labels == label
            assert shares[mine].sum() == pytest.approx(0.5)
            assert np.average(score[mine], weights=shares[mine]) == pytest.approx(new[held == label].mean(), abs=0.25)

    def test_no_row_is_a_batch_by_itself(self) -> None:
        score = np.append(np.full(99, 5.0), -5.0)
        shares = matched_shares(score, np.ones(100, np.int8), np.full(50, -5.0), np.ones(50, np.int8))
        assert shares is not None
        assert shares.max() / shares.min() <= MOST**2
        assert shares.max() < 0.6

    def test_scores_that_spread_alike_are_left_alone(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.repeat([0, 1], 500)
        first, second = rng.normal(labels * 2.0), rng.normal(labels * 2.0)
        assert matched_shares(first, labels, second, labels) is None

    def test_without_held_out_rows_nothing_can_be_matched(self) -> None:
        labels = np.array([0, 0, 1, 1])
        assert matched_shares(np.arange(4.0), labels, np.zeros(0), np.zeros(0, np.int8)) is None


def test_heads_stay_where_no_row_is_left_to_judge_them() -> None:
    """One group with roadwork and one without both choose."""
    drawn = Drawn.of(0, train=400, select=400, test=100)
    select = drawn.images("val_select")
    rows = tuple(row.model_copy(update={"group": f"city {row.label}"}) for row in select.data.rows)
    torch.manual_seed(0)
    net = TableNet(drawn.table, None)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    outcome = train_conformal_risk(
        net,
        drawn.images("train"),
        replace(select, data=replace(select.data, rows=rows)),
        ConformalTrainingSettings(steps=25),
        CALIBRATION,
        seed=0,
        progress=lambda *_: None,
    )
    assert not outcome.gain.kept
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
