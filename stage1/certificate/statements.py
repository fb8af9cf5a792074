"""Certificates and refusals in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stage1.certificate.budget import Budget
from stage1.certificate.params import Evidence, ScrcParams
from stage1.certificate.risks import Rate, Risk, Unit
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import trials_needed
from stage1.certificate.statistics.percent import at_least, at_most, confidence
from stage1.certificate.stream import stream_in_words

GATE_ADDS_NOTHING = "The gate asks the softmax margin; with two classes tau adds nothing to t0 and t1, and is 0."
NOTHING_CERTIFIED = "Nothing could be certified: every image is deferred to Stage-2."
CLASS_NAMES = ("images without roadwork", "roadwork images")

PROMISES = {
    Risk.MISS_ALL: "of all roadwork images, at most {bound} are exited as non-roadwork",
    Risk.MISS_GATED: "of the roadwork images that pass the gate, at most {bound} are exited as non-roadwork",
    Risk.MISS_EXIT: "among roadwork images on which Stage-1 exits, at most {bound} are exited as non-roadwork",
    Risk.FALSE_OMISSION: "among images exited as non-roadwork, at most {bound} show roadwork",
    Risk.ERROR_EXIT: "among images on which Stage-1 exits, at most {bound} are exited with the wrong label",
    Risk.MISS_JOINT: "at most {bound} of all images are roadwork exited as non-roadwork",
}
RISK_NAMES = {
    Risk.MISS_ALL: "a miss rate of all roadwork (D1)",
    Risk.MISS_GATED: "a miss rate behind the gate (D2')",
    Risk.MISS_EXIT: "a miss rate on exits (D2)",
    Risk.FALSE_OMISSION: "a roadwork rate among exits as non-roadwork (D3)",
    Risk.ERROR_EXIT: "an error rate on exits (D4)",
    Risk.MISS_JOINT: "a rate of missed roadwork among all images (D5)",
}
TRIALS = {
    Risk.MISS_ALL: "positive {units}",
    Risk.MISS_GATED: "positive {units} that pass the gate",
    Risk.MISS_EXIT: "exited positive {units}",
    Risk.FALSE_OMISSION: "{units} exited as non-roadwork",
    Risk.ERROR_EXIT: "exited {units}",
    Risk.MISS_JOINT: "{units}",
}
LABELLED = {
    Risk.MISS_ALL: "roadwork {units}",
    Risk.MISS_GATED: "roadwork {units}",
    Risk.MISS_EXIT: "roadwork {units}",
}


def units_of(unit: Unit) -> str:
    """What the independent units are called."""
    return "groups" if unit == "group" else "images"


def labelled(risk: Risk, unit: Unit) -> str:
    """What has to be labelled for a risk."""
    return LABELLED.get(risk, "{units}").format(units=units_of(unit))


def class_is_missing(split: str, label: int) -> str:
    """Why nothing can be certified when a split has one class only."""
    return f"{split} has no {CLASS_NAMES[label]}: both classes are needed. Label some, and split again."


def to_label(missing: int, what: str, share: float) -> str:
    """How many more to label so that so many reach val_calib."""
    if share >= 1:
        return f"Label at least {missing} more {what}."
    return f"Label about {math.ceil(missing / share)} more {what}: {share:.0%} of new ones reach val_calib."


def looks_are_used_up(budget: Budget, needed: int, what: str, share: float) -> str:
    """Why rows that have been looked at as often as was declared certify nothing more."""
    return (
        f"the rows of val_calib have been looked at {budget.uses} times, which spent {budget.spent:.3g} of a delta of "
        f"{budget.delta:g}; one more look at level {budget.level:.3g} is not left. A fresh fold takes {needed} "
        f"{what} that no look has used. {to_label(needed, what, share)}"
    )


def too_few_units(
    risk: Risk,
    bound: float,
    level: float,
    subgroup: str,
    there: int,
    needed: int,
    settings: CalibrationSettings,
    share: float,
) -> str:
    """Why nothing can be certified whatever the scores are."""
    units = units_of(settings.unit)
    where = f" in subgroup {subgroup!r}" if subgroup else ""
    what = labelled(risk, settings.unit)
    positive = "positive " if risk in LABELLED else ""
    exits = " that exit" if risk is Risk.MISS_EXIT else ""
    tested = f"at {confidence(settings.delta)} confidence, tested at level {level:.3g},"
    return (
        f"val_calib has {there} independent {positive}{units}{where}; certifying {RISK_NAMES[risk]} of "
        f"{at_most(bound)} {tested} takes at least {needed}{exits} with no loss among them. "
        f"{to_label(needed - there, what + where, share)}"
    )


def too_few_for_coverage(there: int, needed: int, settings: CalibrationSettings, share: float) -> str:
    """Why no exit coverage can be certified whatever the scores are."""
    units = units_of(settings.unit)
    return (
        f"val_calib has {there} independent {units}; certifying an exit coverage of {at_least(settings.coverage)} "
        f"takes at least {needed} that all exit. {to_label(needed - there, units, share)}"
    )


def not_proved(evidence: Sequence[Evidence], settings: CalibrationSettings) -> str:
    """Why the walk could not take its first step."""
    worst = max(evidence, key=lambda item: item.p_value / item.level)
    assert worst.risk is not None
    units = units_of(settings.unit)
    what = TRIALS[worst.risk].format(units=units)
    where = f" of subgroup {worst.subgroup!r}" if worst.subgroup else ""
    required = trials_needed(worst.events, worst.bound, worst.level)
    return (
        f"at the most cautious threshold {worst.events} of {worst.trials} {what}{where} are lost "
        f"(p = {worst.p_value:.3f} > {worst.level:.3g}); certifying {RISK_NAMES[worst.risk]} of "
        f"{at_most(worst.bound)} with {worst.events} losses takes {required} {what}{where}, or a model that errs less."
    )


def next_look(
    evidence: Sequence[Evidence], units: int, budget: Budget, settings: CalibrationSettings, share: float
) -> str:
    """What to label before the next look, and how many are left, after a look that proved nothing.

    Args:
        evidence: the claims at the most cautious rule.
        units: units of val_calib of the kind that is counted, of which those of the evidence are a part.
        budget: what this look might spend.
        settings: what was asked for.
        share: share of newly labelled images that reaches val_calib.
    """
    worst = max(evidence, key=lambda item: item.p_value / item.level)
    told = []
    if worst.risk is not None:
        missing = trials_needed(worst.events, worst.bound, worst.level) - worst.trials
        # As many of the new ones will count as of those that are there.
        wanted = math.ceil(missing * units / max(1, worst.trials))
        told.append(to_label(wanted, labelled(worst.risk, settings.unit), share))
    left = (budget.left or 0) - 1
    if settings.spending == "looks":
        told.append(
            f"{left} {'look is' if left == 1 else 'looks are'} left at these rows."
            if left > 0
            else "This was the last look at these rows: the next certificate takes a fresh fold."
        )
    return " ".join(told)


def no_pair_proved(tested: int, evidence: Sequence[Evidence]) -> str:
    """Why Holm's procedure rejects nothing."""
    worst = max(evidence, key=lambda item: item.p_value / item.level)
    return (
        f"none of {tested} pairs of gate and threshold has a p-value of at most {worst.level:.2g}, the lowest is "
        f"{worst.p_value:.2g}: testing so many at once takes more labelled rows. Algorithm B tests in sequence."
    )


def coverage_not_proved(attempt: Evidence) -> str:
    """Why no exit coverage could be certified."""
    share = attempt.events / attempt.trials if attempt.trials else 0.0
    return (
        f"no candidate proves an exit coverage of {at_least(attempt.bound)} together with a risk below 1: the best "
        f"lets {attempt.events} of {attempt.trials} units exit ({share:.1%}, p = {attempt.p_value:.3f} > "
        f"{attempt.level:.3g}). Ask for less coverage, or label more."
    )


def statement(
    params: ScrcParams,
    risks: dict[Risk, Rate],
    coverage: Rate,
    exited: Rate,
    by_image: tuple[int, int],
    settings: CalibrationSettings,
) -> str:
    """The certificate in words.

    Args:
        params: everything but what was measured at the rule.
        risks: every risk at the rule.
        coverage: exit coverage at the rule.
        exited: positives that exit.
        by_image: missed and exited positive images of the calibration rows, whatever their groups.
        settings: what was asked for.
    """
    units = units_of(params.unit)
    promises = [PROMISES[e.risk].format(bound=at_most(e.bound)) for e in params.evidence if e.risk and not e.subgroup]
    if params.mode == "coverage":
        promises.insert(0, f"Stage-1 exits on at least {at_least(settings.coverage)} of the images")
    if params.mode == "balanced":
        names = ", ".join(e.subgroup for e in params.evidence if e.subgroup)
        most = at_most(settings.subgroup_slack * settings.alpha)
        promises.append(f"at most {most} in each subgroup of {settings.subgroups} ({names})")
    main = risks[params.risk]
    shown = (Risk.MISS_ALL, Risk.MISS_EXIT, Risk.FALSE_OMISSION)
    bounds = ", ".join(f"{risk} {at_most(risks[risk].upper)}" for risk in shown)
    return (
        f"With {confidence(params.delta)} confidence over the draw of the calibration {units}, "
        f"{', and '.join(promises)}{_counted(params.unit, by_image)} (k = {main.events} of m = {main.trials}; exit "
        f"coverage {coverage.estimate or 0:.3f}, lower bound {at_least(coverage.lower)}; {exited.estimate or 0:.3f} of "
        f"the roadwork exits; upper bounds, each by itself at {confidence(params.bound_delta)}: {bounds}), assuming "
        f"deployment {units} are exchangeable with calibration {units} and labels are correct. It is true of "
        f"{stream_in_words(params.stream, params.stream_weights)}. It does not hold under drift.{_reuse(params)}"
        f"{f' {GATE_ADDS_NOTHING}' if params.gate_score == 'margin' else ''}"
    )


def _counted(unit: Unit, by_image: tuple[int, int]) -> str:
    """What one unit stands for, where it is not an image."""
    if unit == "row":
        return ""
    missed, exits = by_image
    return f", every group counting once by one such image of it, drawn at random (image by image {missed} of {exits})"


def _reuse(params: ScrcParams) -> str:
    """What else these rows have been used for, and may be."""
    budget = params.budget
    if budget.spending == "looks":
        whole = confidence(params.delta)
        left = (budget.left or 1) - 1
        after = "none is left" if left == 0 else f"{left} {'is' if left == 1 else 'are'} left"
        return (
            f" This is look {params.prior_uses + 1} at this fold of calibration rows, tested at {params.spent:.2g}; "
            f"{after}. All certificates from the fold hold together at {whole}, those from different folds each by "
            "themselves."
        )
    if not params.prior_uses:
        return ""
    times = "once" if params.prior_uses == 1 else f"{params.prior_uses} times"
    used = f" These calibration rows had been used {times} before"
    if budget.spending == "nights":
        whole = confidence(params.delta)
        return f"{used}: this certificate was tested at {params.spent:.2g}, so that all on them hold at {whole}."
    return f"{used}, each time at the full level: the confidence is that of one certificate, not of all together."
