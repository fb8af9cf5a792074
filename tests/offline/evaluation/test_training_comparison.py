"""Ways of training side by side: what a difference is, and when nothing may be said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.evaluation.training_comparison import AtRisk, Spread, TrainingComparison, VariantName, compare
from offline.report.training_section import NOT_COMPARED, comparison_section, gain_lines, verdict, with_comparison
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings
from stage1.metrics.classification import matthews_correlation, weighted_mcc
from stage1.metrics.exits_at_risk import ExitShares
from stage1.metrics.risk_coverage import augrc
from stage1.outputs import Stage1Outputs
from stage1.probability.fit import fit_calibrator

SETTINGS = CalibrationSettings(alpha=0.1, unit="row", grid_size=60, gate_size=5)


def outputs(separation: float, prefix: str, count: int = 600, seed: int = 0) -> LabelledOutputs:
    """Scores of two classes so far apart; two rows a group."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.5).astype(np.int8)
    score = (rng.normal((labels - 0.5) * separation)).astype(np.float32)
    made = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.abs(score))
    return LabelledOutputs(
        made, labels, [f"{prefix}{n}" for n in range(count)], [f"{prefix}g{n // 2}" for n in range(count)]
    )


def found(first: float, second: float) -> TrainingComparison:
    variants: dict[VariantName, float] = {"baseline": second, "final": first}
    return compare(
        {name: outputs(apart, "t") for name, apart in variants.items()},
        {name: outputs(apart, "s", seed=1) for name, apart in variants.items()},
        [("final", "baseline")],
        SETTINGS,
        repetitions=200,
        seed=0,
    )


def test_a_better_model_is_said_to_be_better_and_the_other_way_round() -> None:
    (gain,) = found(4.0, 2.0).gains
    assert verdict(gain) == "better"
    assert gain.accuracy.lower > 0
    assert gain.mcc.lower > 0
    (lost,) = found(2.0, 4.0).gains
    assert verdict(lost) == "worse"
    assert lost.augrc.value == pytest.approx(-gain.augrc.value)


def test_a_training_that_moves_all_scores_is_not_said_to_be_worse() -> None:
    """Conformal training moves the cut; the exits at equal risk do not change with it."""
    moved = 1.5

    def shifted(data: LabelledOutputs) -> LabelledOutputs:
        logits = data.outputs.logits + np.array([0.0, moved], np.float32)
        return replace(data, outputs=Stage1Outputs(logits, data.outputs.select_score))

    test, chose = outputs(3.0, "t"), outputs(3.0, "s", seed=1)
    settings = SETTINGS.model_copy(update={"false_alarm_rate": 0.05})
    (gain,) = compare(
        {"supervised": test, "final": shifted(test)},
        {"supervised": chose, "final": shifted(chose)},
        [("final", "supervised")],
        settings,
        repetitions=200,
        seed=0,
    ).gains
    # Neither at equal risk nor by its calibrated probability.
    for at in gain.exits:
        assert at.exits.value == pytest.approx(0, abs=1e-9)
    assert gain.accuracy.value == pytest.approx(0, abs=0.01)
    assert gain.augrc.value == pytest.approx(0, abs=2e-3)
    assert verdict(gain) == "no difference seen"


def test_of_the_same_model_nothing_is_said() -> None:
    (gain,) = found(3.0, 3.0).gains
    assert (gain.augrc.lower, gain.augrc.value, gain.augrc.upper) == (0.0, 0.0, 0.0)
    assert verdict(gain) == "no difference seen"


def test_the_numbers_are_those_of_the_rows() -> None:
    test = outputs(3.0, "t")
    final = found(3.0, 2.0).variants[-1]
    chose = outputs(3.0, "s", seed=1)
    probability = fit_calibrator(chose.outputs, chose.labels).probability(test.outputs)
    wrong = (probability > 0.5) != test.positive
    assert final.accuracy.value == pytest.approx(1 - wrong.mean())
    assert final.augrc.value == pytest.approx(augrc(np.abs(probability - 0.5), wrong.astype(float)))
    assert [at.risk for at in final.exits] == [0.02, 0.05, 0.1]
    shares = ExitShares.of(test.outputs.roadwork_score, test.labels, 0.02).at(np.array([0.02, 0.05, 0.1]))
    assert [at.exits.value for at in final.exits] == pytest.approx(shares.tolist())
    assert final.accuracy.lower < final.accuracy.value < final.accuracy.upper


def test_the_baseline_exits_by_its_fixed_thresholds_and_others_by_what_val_select_chooses() -> None:
    baseline, final = found(3.0, 3.0).variants
    p = 1 / (1 + np.exp(-outputs(3.0, "t").outputs.roadwork_score.astype(float)))
    assert baseline.exit_coverage == pytest.approx(np.mean((p >= 0.88) | (p <= 0.12)), abs=0.005)
    assert final.exit_coverage != baseline.exit_coverage
    assert final.miss_rate is not None
    assert final.miss_rate < 0.15


def test_the_baseline_ranks_by_its_softmax_whatever_its_selection_head_says() -> None:
    test = outputs(3.0, "t")
    rng = np.random.default_rng(2)
    noise = Stage1Outputs(test.outputs.logits, rng.normal(size=len(test)).astype(np.float32))
    noisy = LabelledOutputs(noise, test.labels, test.row_ids, test.groups)
    variants: dict[VariantName, LabelledOutputs] = {"baseline": noisy, "final": noisy}
    selecting = {name: outputs(3.0, "s", seed=1) for name in variants}
    by_head = SETTINGS.model_copy(update={"gate": "select_score"})
    baseline, final = compare(variants, selecting, [], by_head, repetitions=5, seed=0).variants
    assert final.augrc.value > baseline.augrc.value
    _, by_margin = compare(variants, selecting, [], SETTINGS, repetitions=5, seed=0).variants
    assert by_margin.augrc.value == baseline.augrc.value


def test_what_is_certified_here_is_what_a_calibration_on_these_rows_would_certify() -> None:
    final = found(4.0, 2.0).variants[-1]
    settings = SETTINGS.model_copy(update={"spending": "single_use"})
    context = CalibrationContext("e" * 64, "p" * 64)
    params = calibrate(
        outputs(4.0, "s", seed=1), outputs(4.0, "t"), settings.model_copy(update={"allow_row_unit": True}), context
    )
    assert params.rule is not None
    exits = params.rule.exit_labels(outputs(4.0, "t").outputs) >= 0
    assert final.certified == pytest.approx(exits.mean())
    assert found(0.0, 0.0).variants[-1].certified == 0.0


def spread(lower: float, upper: float) -> Spread:
    return Spread(value=(lower + upper) / 2, lower=lower, upper=upper)


@pytest.mark.parametrize(
    ("exits", "certified", "said"),
    [
        ((0.01, 0.1), (-0.02, 0.1), "better"),
        ((0.01, 0.1), (-0.2, -0.1), "no difference seen"),
        ((-0.1, -0.01), (-0.2, 0.1), "worse"),
        ((-0.1, -0.01), (0.1, 0.2), "no difference seen"),
        ((-0.1, 0.2), (0.1, 0.2), "no difference seen"),
    ],
)
def test_the_verdict_follows_from_the_intervals(
    exits: tuple[float, float], certified: tuple[float, float], said: str
) -> None:
    (gain,) = found(3.0, 3.0).gains
    changes = {"exits": (AtRisk(risk=0.1, exits=spread(*exits)),), "certified": spread(*certified)}
    assert verdict(gain.model_copy(update=changes)) == said


def test_without_roadwork_that_exits_there_is_no_miss_rate() -> None:
    assert found(0.0, 0.0).variants[1].miss_rate is None


def test_weights_of_one_give_the_usual_correlation_and_doubled_rows_double_weights() -> None:
    rng = np.random.default_rng(0)
    labels, guess = rng.integers(0, 2, (2, 50))
    assert weighted_mcc(labels, guess, np.ones(50)) == pytest.approx(matthews_correlation(labels, guess))
    weights = rng.integers(0, 4, 50)
    repeated = matthews_correlation(np.repeat(labels, weights), np.repeat(guess, weights))
    assert weighted_mcc(labels, guess, weights.astype(float)) == pytest.approx(repeated)


def test_the_page_says_the_verdict_and_the_interval() -> None:
    page = comparison_section(found(4.0, 2.0))
    assert "What the training gained" in page
    assert "better" in page
    assert page.count("<tr") == 5
    assert with_comparison(f"a{NOT_COMPARED}b", found(4.0, 2.0)) == f"a{page}b"
    with pytest.raises(ValueError, match="no place"):
        with_comparison("ab", found(4.0, 2.0))


def test_the_terminal_is_told_in_a_line_a_comparison() -> None:
    (line,) = gain_lines(found(4.0, 2.0))
    assert line.startswith("better than baseline: ")
    assert "exits at a miss rate of 0.1 +0." in line
    assert "certified on the test rows +0." in line
    (undecided,) = gain_lines(found(3.0, 3.0))
    assert undecided.startswith("no difference seen to baseline: ")
    assert "exits at a miss rate of 0.1 +0.000 [+0.000, +0.000], certified" in undecided
