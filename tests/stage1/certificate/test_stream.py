"""Streams: shares and words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.stream import ERAS, era_shares, even_weights, stream_in_words


def test_a_mixture_has_a_third_of_each_era_by_default() -> None:
    settings = CalibrationSettings()
    assert settings.stream == "mixture"
    assert era_shares(settings.stream, settings.stream_weights) == pytest.approx(dict.fromkeys(ERAS, 1 / 3))


def test_weights_count_in_a_mixture_alone() -> None:
    weights = even_weights() | {"challenges-2026-05": 2.0, "challenges-2026-01": 0.0}
    assert era_shares("mixture", weights) == pytest.approx({"challenges-2026-04": 1 / 3, "challenges-2026-05": 2 / 3})
    assert era_shares("challenges-2026-01", weights) == {"challenges-2026-01": 1.0}
    assert era_shares("originals", weights) == {}


def test_scores_that_went_through_no_stream_certify_nothing_about_one(binormal: Callable[..., LabelledOutputs]) -> None:
    """Whoever certifies scores of his own gets a certificate of originals, whatever the settings of a night say."""
    sets = binormal(1200, seed=1, prefix="select/"), binormal(1200, seed=2, prefix="calib/")
    settings = CalibrationSettings(alpha=0.05, grid_size=40, gate_size=5, stream="mixture")
    params = calibrate(*sets, settings, CalibrationContext("e" * 64, "p" * 64))
    assert (params.status, params.stream) == ("CERTIFIED", "originals")
    assert "It is true of pictures as they are in the data (stream originals)." in params.statement
    sent = CalibrationContext("e" * 64, "p" * 64, stream="challenges-2026-04")
    assert calibrate(*sets, settings, sent).stream == "challenges-2026-04"


def test_words_name_the_stream_and_what_was_done() -> None:
    assert stream_in_words("originals", even_weights()) == "pictures as they are in the data (stream originals)"
    words = stream_in_words("challenges-2026-04", even_weights())
    assert words.endswith(
        "(stream challenges-2026-04: put into a square of 224 px with black bars and, in three of four, rotated and "
        "distorted)"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"stream": "challenges-2025-12"}, "Input should be"),
        ({"stream_weights": {"challenges-2025-12": 1.0}}, "Input should be"),
        ({"stream_weights": {"challenges-2026-01": -1.0}}, "greater than or equal to 0"),
        ({"stream_weights": {"challenges-2026-01": 0.0}}, "no era has a weight above 0"),
        ({"stream_weights": {}}, "no era has a weight above 0"),
        ({"stream_weights": {"challenges-2026-01": float("inf")}}, "finite"),
    ],
)
def test_a_stream_that_sends_nothing_is_no_setting(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CalibrationSettings.model_validate(given)
