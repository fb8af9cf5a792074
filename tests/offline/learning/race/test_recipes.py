"""The recipes that race: combinations of options, and who starts first."""

from __future__ import annotations

import pytest

from offline.config import PRESETS
from offline.learning.race.recipes import AXES as DEFAULT
from offline.learning.race.recipes import Axes, recipe_of, recipes, starting_order
from offline.learning.settings import LearnSettings
from stage1.errors import SettingsError
from stage1.settings import override

AXES: Axes = {
    "adapter": {"lora": {"model.adapter": "lora"}, "doran": {"model.adapter": "doran"}},
    "rate": {"as it is": {}, "three times": {"train.rate": "*3"}},
    "adaptation": {"off": {"adapt.enabled": False}, "on": {"adapt.enabled": True}},
}


def tree(*, adapt: bool = True) -> dict[str, object]:
    return {"model": {"adapter": "doran"}, "train": {"rate": 0.002}, "adapt": {"enabled": adapt}}


def test_every_combination_races_and_the_simplest_comes_first() -> None:
    field = recipes(AXES, tree())
    assert len(field) == 8
    assert field[0].name == "lora + as it is + off"
    assert dict(field[-1].overrides) == {
        "model.adapter": "doran",
        "train.rate": pytest.approx(0.006),
        "adapt.enabled": True,
    }


def test_what_the_config_switches_off_is_no_option() -> None:
    assert {one.options[2] for one in recipes(AXES, tree(adapt=False))} == {"off"}


def test_an_axis_without_an_option_is_no_axis() -> None:
    axes = {"adapter": AXES["adapter"], "adaptation": {"on": {"adapt.enabled": True}}}
    assert [one.name for one in recipes(axes, tree(adapt=False))] == ["lora", "doran"]


def test_two_axes_may_not_change_the_same_value() -> None:
    with pytest.raises(SettingsError, match=r"'adapter' and 'other' both change model\.adapter"):
        recipes({**AXES, "other": {"dora": {"model.adapter": "dora"}}}, tree())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [({"train.speed": "*2"}, r"no train\.speed"), ({"model.adapter": "*2"}, "'doran', which '\\*2' cannot")],
)
def test_a_factor_needs_a_number_to_multiply(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        recipes({"one": {"faster": overrides}}, tree())


def test_last_nights_winner_and_its_neighbours_start_after_the_simplest() -> None:
    field = recipes(AXES, tree())
    last = recipe_of(field, {"model": {"adapter": "doran"}, "train": {"rate": 0.006}, "adapt": {"enabled": True}})
    assert last is not None
    order = starting_order(field, last, seed=0, most=8)
    assert order[0] is field[0]
    assert order[1] is last
    assert [one.differs(last) for one in order[2:5]] == [1, 1, 1]
    assert sorted(one.name for one in order) == sorted(one.name for one in field)
    assert starting_order(field, last, seed=0, most=3) == order[:3]


def test_without_a_last_winner_the_neighbours_of_the_simplest_start() -> None:
    field = recipes(AXES, tree())
    assert [one.differs(field[0]) for one in starting_order(field, None, seed=0, most=4)] == [0, 1, 1, 1]


def test_a_config_of_another_shape_follows_no_recipe() -> None:
    assert recipe_of(recipes(AXES, tree()), {"model": {}}) is None


def test_the_default_field_fits_the_config_of_a_night_and_its_simplest_is_lora_by_adamw() -> None:
    config = PRESETS["standard"]
    field = recipes(DEFAULT, config.model_dump(mode="json"))
    # Without an adaptation there is no adapted backbone to try.
    assert len(field) == 3 * 7 * 3 * 1 * 2
    assert field[0].name == "lora + adamw + attention pooling + no adaptation + no conformal training"
    for one in field:
        override(config, one.overrides)


@pytest.mark.parametrize(
    "path",
    ["calibrate_scrc.alpha", "splits.val_calib", "seed", "adapt_domain.epochs", "compare_training.baseline", "model"],
)
def test_what_is_certified_and_which_rows_judge_never_races(path: str) -> None:
    with pytest.raises(ValueError, match=rf"an axis cannot change {path}"):
        LearnSettings(axes={"more": {"as it is": {}, "other": {path: 0.5}}})


def test_whatever_trains_may_race() -> None:
    LearnSettings(axes={"more": {"other": {"train_supervised.fsam.rho": 0.02, "preprocess.size_px": 64}}})
    for options in DEFAULT.values():
        LearnSettings(axes={"again": {name: dict(overrides) for name, overrides in options.items()}})
