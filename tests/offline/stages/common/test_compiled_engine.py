"""An engine that computes something else than its graph is found before calibration rows are spent on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engines.errors import ParityError
from engines.spec import EngineSpec
from offline.certify.engine_agreement import check_agreement, correlation
from stage1.outputs import Stage1Outputs

SPEC = EngineSpec(backend="tensorrt", precision="bf16", device="cuda")
OutputsOf = Callable[..., Stage1Outputs]


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, 500)


def test_rounding_is_no_other_network(outputs_of: OutputsOf, scores: np.ndarray) -> None:
    rounded = scores * (1 + np.random.default_rng(1).normal(0, 0.02, 500))
    check_agreement(SPEC, outputs_of(rounded), outputs_of(scores))
    assert correlation(outputs_of(rounded), outputs_of(scores)) > 0.99


@pytest.mark.parametrize("wrong", ["noise", "constant", "upside down"])
def test_a_miscompiled_engine_is_refused(outputs_of: OutputsOf, scores: np.ndarray, wrong: str) -> None:
    noise = np.random.default_rng(2).normal(0, 2, 500)
    said = {"noise": noise, "constant": np.full(500, 0.3), "upside down": -scores}[wrong]
    with pytest.raises(ParityError, match="tensorrt cuda bf16 computes something else than its graph: over 500 images"):
        check_agreement(SPEC, outputs_of(said), outputs_of(scores))


def test_a_network_that_says_the_same_of_everything_agrees_with_itself(outputs_of: OutputsOf) -> None:
    constant = np.full(20, 0.3)
    check_agreement(SPEC, outputs_of(constant + 1e-5), outputs_of(constant))
    assert correlation(outputs_of(constant + 1e-5), outputs_of(constant)) == 1.0
