"""A view of settings holds some fields; another one is not a default, it is not there."""

from __future__ import annotations

import copy
import pickle

import pytest

from offline.config import RunConfig, load_config
from offline.errors import PipelineError
from offline.pipeline.settings_view import leaves, narrowed, overridden, paths_in

PATHS = ("seed", "model.backbone", "calibrate_scrc.alpha", "calibrate_scrc.gate")


def test_a_view_holds_what_is_named_and_nothing_else() -> None:
    view = narrowed(load_config("tiny"), PATHS)
    assert isinstance(view, RunConfig)
    assert (view.seed, view.calibrate_scrc.alpha) == (0, 0.02)
    with pytest.raises(AttributeError, match="delta"):
        _ = view.calibrate_scrc.delta
    with pytest.raises(AttributeError, match="gate"):
        _ = view.gate
    # A property is of the fields that it reads.
    with pytest.raises(AttributeError, match="algorithm"):
        _ = view.calibrate_scrc.chains
    assert [name for name, _ in leaves(view.model_dump(mode="json"))] == [
        "seed",
        *(f"model.backbone.{name}" for name in ("kind", "hidden", "layers", "heads", "patch_px", "initializer_range")),
        "calibrate_scrc.alpha",
        "calibrate_scrc.gate",
    ]


def test_copies_of_a_view_hold_no_more() -> None:
    view = narrowed(load_config("tiny"), PATHS)
    for other in (view.model_copy(), copy.deepcopy(view), pickle.loads(pickle.dumps(view)), narrowed(view, PATHS)):
        assert other.model_dump() == view.model_dump()
        with pytest.raises(AttributeError):
            _ = other.calibrate_scrc.delta


def test_a_view_with_other_values_holds_these_and_what_it_held() -> None:
    view = narrowed(load_config("tiny"), PATHS)
    other = overridden(view, {"calibrate_scrc.alpha": 0.1, "train_supervised.optimiser": "lion"})
    assert (other.calibrate_scrc.alpha, other.train_supervised.optimiser) == (0.1, "lion")
    assert list(paths_in(other)) == [
        "seed",
        "model.backbone",
        "train_supervised.optimiser",
        "calibrate_scrc.alpha",
        "calibrate_scrc.gate",
    ]
    with pytest.raises(AttributeError):
        _ = other.calibrate_scrc.delta


def test_the_whole_is_the_config_itself() -> None:
    config = load_config("tiny")
    assert narrowed(config, ["*"]) is config


@pytest.mark.parametrize("path", ["nothing", "model.nothing"])
def test_a_field_that_is_not_there_is_an_error(path: str) -> None:
    with pytest.raises(PipelineError, match="no field 'nothing'"):
        narrowed(load_config("tiny"), [path])
