"""What supervised training minimises, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from offline.data.dataset import Dataset, Row
from offline.data.named_targets import NO_TARGET, check_named, named_targets
from offline.errors import DatasetError
from offline.learning.settings import TrainSettings
from offline.learning.supervised.losses import (
    named_loss,
    selection_loss,
    selective_net_loss,
    supervised_loss,
)
from stage1.model.net import NetOutputs
from stage1.model.settings import NamedHead

LABELS = torch.tensor([0, 1, 1, 0])
LOGITS = torch.tensor([[2.0, -1.0], [0.5, 1.5], [1.0, -0.5], [-0.2, 0.3]], dtype=torch.float64)
SCORE = torch.tensor([1.2, -0.3, 0.4, -2.0], dtype=torch.float64)


def cross_entropies() -> np.ndarray:
    logits = LOGITS.numpy()
    normaliser = np.log(np.exp(logits).sum(1))
    return np.asarray(normaliser - logits[np.arange(4), LABELS.numpy()])


def test_the_selection_head_learns_whether_the_class_head_is_right() -> None:
    right = np.array([1, 1, 0, 0])
    p = 1 / (1 + np.exp(-SCORE.numpy()))
    expected = -np.mean(right * np.log(p) + (1 - right) * np.log(1 - p))
    assert float(selection_loss(SCORE, LOGITS, LABELS)) == pytest.approx(expected)


def test_the_selection_head_does_not_train_the_class_head() -> None:
    logits, score = LOGITS.clone().requires_grad_(), SCORE.clone().requires_grad_()
    selection_loss(score, logits, LABELS).backward()
    assert logits.grad is None
    assert score.grad is not None


@pytest.mark.parametrize("coverage", [0.3, 0.9])
def test_selective_net_weighs_each_loss_and_is_held_to_its_coverage(coverage: float) -> None:
    """SelectiveNet, equations 2 and 4: selective risk, and a quadratic penalty of 32 below the coverage."""
    selected = 1 / (1 + np.exp(-SCORE.numpy()))
    risk = (cross_entropies() * selected).mean() / selected.mean()
    lack = max(0.0, coverage - selected.mean())
    found = selective_net_loss(SCORE, LOGITS, LABELS, coverage=coverage)
    assert float(found) == pytest.approx(risk + 32 * lack**2)
    assert (lack > 0) == (coverage > 0.5)


def test_selective_net_would_rather_select_what_is_right() -> None:
    score = SCORE.clone().requires_grad_()
    selective_net_loss(score, LOGITS, LABELS, coverage=0.1).backward()
    assert score.grad is not None
    losses = cross_entropies()
    assert (np.sign(score.grad.numpy()) == np.sign(losses - np.average(losses, weights=torch.sigmoid(SCORE)))).all()


def test_a_named_head_learns_from_the_rows_that_have_a_value() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [9.0, 9.0, 0.0]])
    targets = torch.tensor([2, NO_TARGET, 1, NO_TARGET])
    alone = named_loss({"kind": logits[[0, 2]]}, {"kind": targets[[0, 2]]})
    together = named_loss({"kind": logits}, {"kind": targets})
    assert alone is not None
    assert together is not None
    assert float(together) == pytest.approx(float(alone))


def test_a_batch_without_any_value_has_no_named_loss() -> None:
    assert named_loss({"kind": torch.zeros(2, 3)}, {"kind": torch.full((2,), NO_TARGET)}) is None
    assert named_loss({}, {}) is None


def whole(settings: TrainSettings, auxiliary: Tensor | None = None, **named: Tensor) -> float:
    outputs = NetOutputs(LOGITS, SCORE, named)
    targets: Mapping[str, Tensor] = {name: torch.tensor([1, 0, NO_TARGET, 0]) for name in named}
    return float(supervised_loss(outputs, auxiliary, LABELS, targets, settings))


def test_the_terms_add_up_by_their_weights() -> None:
    plain = cross_entropies().mean()
    assert whole(TrainSettings(selection_weight=0.0)) == pytest.approx(plain)
    selection = float(selection_loss(SCORE, LOGITS, LABELS))
    assert whole(TrainSettings(selection_weight=0.7)) == pytest.approx(plain + 0.7 * selection)
    settings = TrainSettings(selection_weight=0.0, auxiliary_weight=0.4)
    assert whole(settings, auxiliary=LOGITS) == pytest.approx(1.4 * plain)
    kind = named_loss({"kind": LOGITS}, {"kind": torch.tensor([1, 0, NO_TARGET, 0])})
    assert kind is not None
    named = whole(TrainSettings(selection_weight=0.0, named_weight=0.2), kind=LOGITS)
    assert named == pytest.approx(plain + 0.2 * float(kind))


def data(*values: str | None) -> Dataset:
    rows = tuple(
        Row(image=f"{n}.jpg", label=n % 2, group=str(n), metadata={} if value is None else {"tags.alteration": value})
        for n, value in enumerate(values)
    )
    return Dataset(Path("drive"), rows)


HEADS = {"alteration": NamedHead(column="alteration", classes=("none", "active", "planned"))}


def test_targets_come_from_a_column_by_its_last_name() -> None:
    found = named_targets(data("planned", None, "none", "active"), HEADS)
    assert found["alteration"].tolist() == [2, NO_TARGET, 0, 1]


def test_a_value_that_a_head_does_not_know_names_the_row() -> None:
    with pytest.raises(
        DatasetError, match=r"'1.jpg' has alteration 'closed'.*none, active, planned.*heads\.alteration"
    ):
        named_targets(data("none", "closed"), HEADS)


def test_a_column_that_nobody_filled_is_said() -> None:
    with pytest.raises(DatasetError, match="no row has a value in the column 'alteration'"):
        check_named(data(None, None), HEADS)
