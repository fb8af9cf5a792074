"""Whether a training that never starts is noticed, and what is done about it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from offline.data.dataset import Dataset, Row
from offline.errors import TrainingError
from offline.learning.distillation.soft_labels import SoftLabels
from offline.learning.predict import ImageSet
from offline.learning.settings import TrainSettings
from offline.learning.supervised.outcome import TrainingOutcome
from offline.learning.supervised.record import TrainingRecord
from offline.learning.supervised.start import at_chance, chance_loss, class_loss
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.outputs import Stage1Outputs

SIZE_PX = 32
CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)
RECIPE = TrainSettings(epochs=6, batch_size=16, learning_rate=3e-3, augmentation="none")


def coloured(count: int, seed: int, share: float = 0.5, *, told: bool = True) -> ImageSet:
    """Images that are roadwork if and only if they are reddish; or that say nothing."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < share).astype(int)
    pixels = rng.integers(0, 120, (count, 3, SIZE_PX, SIZE_PX))
    pixels[:, 0] += (120 if told else 0) * labels[:, None, None]
    rows = tuple(Row(image=f"{seed}/{n}", label=int(y), group=f"{seed}/{n}") for n, y in enumerate(labels))
    return ImageSet((pixels if told else np.full_like(pixels, 128)).astype(np.uint8), Dataset(Path("nowhere"), rows))


def train(
    train_set: ImageSet, settings: TrainSettings = RECIPE, *, told: bool = True, chosen: float = 0.5
) -> TrainingOutcome:
    select = coloured(96, 2, chosen, told=told)
    return train_supervised(
        Trainee(untrained(), train_set, select), settings, CALIBRATION, seed=0, progress=lambda *_: None
    )


def untrained() -> Stage1Net:
    """A network with adapters, at chance."""
    model = ModelSettings(
        backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8), last_layers=None, rank=4, adapter="lora"
    )
    net = build(model, shape=(SIZE_PX, SIZE_PX), seed=0)
    add_adapters(net, model)
    # So that it begins at chance: as it comes, it happens to see some of what is red.
    for parameter in net.class_head[-1].parameters():
        nn.init.zeros_(parameter)
    return net


def test_chance_is_the_entropy_of_the_shares_and_not_ln_2() -> None:
    labels = np.array([0] * 10 + [1] * 90)
    assert chance_loss(0.9) == pytest.approx(-(0.1 * math.log(0.1) + 0.9 * math.log(0.9)))
    assert chance_loss(0.5) == pytest.approx(math.log(2))
    for share, answer in ((0.9, math.log(9)), (0.5, 0.0)):
        logits = np.tile(np.array([[0.0, answer]], np.float32), (100, 1))
        same = class_loss(Stage1Outputs(logits, np.zeros(100, np.float32)), labels, share)
        assert same == pytest.approx(chance_loss(share), abs=1e-6)
        assert at_chance([same + 1, same], chance_loss(share))
    assert not at_chance([0.7, 0.6, 0.8], math.log(2))


def test_rows_that_choose_may_have_other_shares_than_those_that_train() -> None:
    """A network that tells the classes apart as its training had them is not at chance where one of them is rare."""
    labels = np.array([1] * 5 + [0] * 95)
    score = np.where(labels == 1, 1.5, -1.5) * np.where(np.arange(100) % 10 == 7, -1, 1)
    outputs = Stage1Outputs(np.stack([0 * score, score], 1).astype(np.float32), np.zeros(100, np.float32))
    assert not at_chance([class_loss(outputs, labels, 0.5)], chance_loss(0.5))


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_training_that_learns_is_left_alone(share: float) -> None:
    outcome = train(coloured(160, 1, share))
    assert outcome.first_rate is None
    assert outcome.learned
    assert outcome.balance == ("none" if share == 0.5 else "logits")
    assert outcome.lowest_loss < 0.5 * outcome.chance


def test_an_average_that_lags_behind_does_not_begin_a_training_again() -> None:
    """After a third of these steps nearly all of a slow average is what the network began as."""
    outcome = train(coloured(160, 1), RECIPE.model_copy(update={"ema_decay": 0.9995}))
    assert outcome.first_rate is None


def test_where_roadwork_is_rarer_among_the_rows_that_choose_a_training_that_learns_is_left_alone() -> None:
    settings = RECIPE.model_copy(update={"learning_rate": 3e-4, "judgements": 6})
    outcome = train(coloured(160, 1), settings, chosen=0.04)
    assert outcome.first_rate is None
    assert outcome.learned


def test_the_second_training_begins_as_the_first_one_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that moves nothing stands for one from which there is no way back: this network finds back from any."""
    monkeypatch.setattr("offline.learning.supervised.train.SECOND_RATE", 3e5)
    outcome = train(coloured(160, 1), RECIPE.model_copy(update={"learning_rate": 1e-8}))
    alone = train(coloured(160, 1))
    assert outcome.first_rate == 1e-8
    assert outcome.records == alone.records
    assert outcome.learning_rate == pytest.approx(3e-3)
    assert outcome.learned
    assert [record["epoch"] for record in outcome.records] == [1, 2, 3, 4, 5, 6]


def test_where_nothing_can_be_learned_it_ends_and_says_so() -> None:
    outcome = train(coloured(96, 1, told=False), told=False)
    assert outcome.first_rate == RECIPE.learning_rate
    assert not outcome.learned
    record = TrainingRecord(
        adapter="lora",
        trained_parameters=1,
        all_parameters=2,
        cached=False,
        inputs="",
        coverage=0.0,
        loss=0.7,
        learning_rate=outcome.learning_rate,
        first_rate=outcome.first_rate,
        chance=outcome.chance,
        lowest_loss=outcome.lowest_loss,
        learned=outcome.learned,
    )
    again, nothing = record.notes()
    assert "began again at a learning rate of 0.001: at 0.003" in again
    assert "learned nothing" in nothing
    assert record.model_copy(update={"first_rate": None, "learned": True}).notes() == ()


def test_few_images_are_gone_through_more_often_and_judged_no_more_often() -> None:
    settings = RECIPE.model_copy(update={"epochs": 2, "least_steps": 60, "judgements": 4})
    outcome = train(coloured(96, 1), settings)
    assert outcome.steps == 60
    assert [record["epoch"] for record in outcome.records] == [3, 5, 8, 10]


def test_what_a_teacher_finds_likelier_is_no_label_of_a_class_that_has_none() -> None:
    train_set = coloured(32, 1)
    labels = train_set.data.labels
    soft = SoftLabels(np.full(32, 0.5), labels == 0, temperature=1.0, weight=0.5)
    with pytest.raises(TrainingError, match=rf"0 of the {np.sum(labels == 0)} rows that train show roadwork"):
        train_supervised(
            Trainee(untrained(), train_set, coloured(32, 2), taught=soft),
            RECIPE,
            CALIBRATION,
            seed=0,
            progress=lambda *_: None,
        )
