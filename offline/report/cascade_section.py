"""The section of a report on both stages together: what each point of the cascade earns, in words, numbers, a chart."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from offline.evaluation.cascade_curve import CascadePoint, PointName, WholeCascade
from offline.report.charts import Chart, Marker
from offline.report.page import NAMES as POLICIES
from offline.report.page import STYLE
from stage1.metrics.estimate import Estimate

POINTS: dict[PointName, str] = {
    "certified": "certified policy",
    "softmax": POLICIES["threshold_baseline"],
    "all_to_stage2": "everything handed on",
    "none": "nothing handed on",
}
IN_WORDS: dict[PointName, str] = {
    "certified": "the certified policy",
    "softmax": f"the {POLICIES['threshold_baseline']} rule",
    "all_to_stage2": "to hand everything on",
    "none": "to hand nothing on",
}
HOW_TO = (
    "No Stage-2 server has been asked about these rows. `cascade stage2 evaluate --data DIR` asks the servers of the "
    "settings about val_select and test and keeps their scores; then `cascade stage2 report --data DIR` writes this "
    "part for a bundle, and the next night puts it here."
)
LOOK_AT = "Look at the prompt, the classes or the model of the server."
# Below it the numbers of a calibrator are mostly noise.
MANY_ROWS = 200


def cascade_section(cascades: Sequence[WholeCascade], *, infeasible: bool = False, left_out: str = "") -> str:
    """Both stages together, as HTML.

    Args:
        cascades: one for each server that was asked; none says how to ask one.
        infeasible: whether nothing was certified, so that the certified policy hands everything on.
        left_out: why nothing can be said, where something is wrong with what is kept of a server.
    """
    if left_out:
        return f'<h2>The whole cascade</h2><p class="bad">The whole cascade is left out: {escape(left_out)}</p>'
    if not cascades:
        return f"<h2>The whole cascade</h2><p>{_code(HOW_TO)}</p>"
    return "".join(_one(cascade, infeasible=infeasible) for cascade in cascades)


def cascade_page(cascades: Sequence[WholeCascade], *, title: str, data: str, infeasible: bool) -> str:
    """A page of its own, for a bundle whose report was written before any server was asked.

    Args:
        cascades: see `cascade_section`.
        title: heading.
        data: one sentence about the data, shown under the heading.
        infeasible: see `cascade_section`.
    """
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(data)}</p>
{cascade_section(cascades, infeasible=infeasible)}
</body></html>
"""


def cascade_lines(cascade: WholeCascade, *, infeasible: bool = False) -> tuple[str, ...]:
    """What a person should take from it, one sentence each.

    Args:
        cascade: the cascade with one server.
        infeasible: see `cascade_section`.
    """
    return (*_earned(cascade, infeasible=infeasible), _slope(cascade), *_deferred(cascade), *_caveats(cascade))


def warnings_of(cascade: WholeCascade) -> tuple[str, ...]:
    """What speaks against handing images on to this server, in words; nothing where nothing does."""
    found, alone = cascade.deferred, cascade.point("all_to_stage2")
    if alone.exit_coverage == 0 and (alone.misses.value, alone.false_alarms.value) in {(1.0, 0.0), (0.0, 1.0)}:
        why = "its scores tell roadwork from other images too little to be of use"
        return (f"Stage-2 answers all {cascade.rows} rows alike: {why}. {LOOK_AT}",)
    if found is None or found.gained.value is None:
        return ()
    if found.gained.value <= 0:
        told = "to answer by Stage-1 alone costs nothing and is faster"
        return (f"Stage-2 is no better than Stage-1 on what is handed on: {told}. {LOOK_AT}",)
    if found.gained.lower is not None and found.gained.lower <= 0:
        return ("These rows do not show that Stage-2 is better than Stage-1 on what is handed on.",)
    return ()


def _earned(cascade: WholeCascade, *, infeasible: bool) -> list[str]:
    best, certified = cascade.best, cascade.point("certified")
    assert best.name is not None
    told = []
    if infeasible:
        told.append("Nothing is certified, so the certified policy hands everything on.")
    if best.reward.value == certified.reward.value:
        told.append(f"Of the four points, none earns more than the certified policy: a reward of {_reward(certified)}.")
    else:
        sure = best.gained.lower is not None and best.gained.lower > 0
        beyond = "more than" if sure else "which these rows do not tell apart from"
        told.append(
            f"Of the four points, {IN_WORDS[best.name]} earns most: a reward of {_reward(best)}, {beyond} the "
            f"certified policy with {_reward(certified)}; the difference is {best.gained.in_words('+.3f')}."
        )
    top = cascade.best_of_curve
    told.append(
        f"Along the curve most is earned where {top.exit_coverage:.0%} of the images exit: {_reward(top)}. It was "
        "picked on these very rows, so it flatters itself, and no point but the certified one is certified."
    )
    return told


def _slope(cascade: WholeCascade) -> str:
    slope, coverage = cascade.slope, cascade.point("certified").exit_coverage
    value = slope.value or 0.0
    word = "costs" if value < 0 else "brings"
    ends = "" if slope.lower is None or slope.upper is None else f" [{slope.lower:+.4f}, {slope.upper:+.4f}]"
    return (
        f"Around the exit coverage of the certified policy, {coverage:.0%}, one more per cent of exits {word} "
        f"{abs(value):.4f} of reward; the change is {value:+.4f}{ends}."
    )


def _deferred(cascade: WholeCascade) -> list[str]:
    found = cascade.deferred
    if found is None:
        return ["The certified policy hands nothing on, so Stage-2 changes none of its answers."]
    told = (
        f"On the {found.rows} images that the certified policy hands on Stage-2 is right about "
        f"{found.stage2.in_words('.1%')} and Stage-1 about {found.stage1.in_words('.1%')}; the difference is "
        f"{found.gained.in_words('+.1%')}."
    )
    return [told, *warnings_of(cascade)]


def _caveats(cascade: WholeCascade) -> list[str]:
    told = []
    if not cascade.select_rows:
        told.append(
            "val_select has too few scores of each class to calibrate this server: its scores are taken as they are."
        )
    elif cascade.select_rows < MANY_ROWS:
        told.append(f"Its calibrator is fitted on {cascade.select_rows} rows of val_select, which are few.")
    if cascade.unasked:
        told.append(
            f"{cascade.unasked} of {cascade.rows + cascade.unasked} test rows have no score of this server and are "
            "left out: run `cascade stage2 evaluate` again."
        )
    if cascade.refused:
        told.append(f"It could not answer {cascade.refused} of {cascade.rows} rows; there Stage-1 answers.")
    return told


def _one(cascade: WholeCascade, *, infeasible: bool) -> str:
    warned = set(warnings_of(cascade))
    lines = "".join(
        f'<li class="bad">{_code(line)}</li>' if line in warned else f"<li>{_code(line)}</li>"
        for line in cascade_lines(cascade, infeasible=infeasible)
    )
    return (
        f"<h2>The whole cascade, with {escape(cascade.server)}</h2>"
        f"<p>Stage-2 is the model {escape(cascade.model)}, asked about {cascade.rows} test rows in {cascade.groups} "
        f"groups, {cascade.positives} with roadwork. What exits is answered by Stage-1, everything else by Stage-2, "
        f"through a calibrator that was fitted on {cascade.select_rows} rows of val_select.</p><ul>{lines}</ul>"
        f'<div class="scroll"><table>{_table(cascade)}</table></div>'
        "<p><small>Reward: what the subnet pays for these answers by its own rule, in [0, 1], over streams of these "
        "rows in random order. Misses: roadwork answered 0; false alarms: other images answered 1; both of answers, "
        "not of exits. Small: 95% group bootstrap.</small></p>"
        f"<figure>{_reward_chart(cascade)}<figcaption>Subnet reward against exit coverage, with its 95% group "
        "bootstrap band, 100% being the most that can be earned: at the left everything is handed on, at the right "
        "nothing. Numbers: the points of the table.</figcaption></figure>"
        f"<figure>{_error_chart(cascade)}<figcaption>Misses (line) and false alarms (dashed) of the answers against "
        "exit coverage.</figcaption></figure>"
    )


def _table(cascade: WholeCascade) -> str:
    points = cascade.points
    rows: list[tuple[str, list[str]]] = [
        ("images that exit", [f"{point.exit_coverage:.1%}" for point in points]),
        ("subnet reward", [_cell(point.reward, ".3f") for point in points]),
        ("reward beside the certified policy", [_cell(point.gained, "+.3f") for point in points]),
        ("accuracy", [_cell(point.accuracy, ".1%") for point in points]),
        ("MCC", [_cell(point.mcc, ".3f") for point in points]),
        ("misses", [_cell(point.misses, ".1%") for point in points]),
        ("false alarms", [_cell(point.false_alarms, ".1%") for point in points]),
        ("ms in Stage-2, mean (p99)", [f"{point.stage2_ms:.0f} ({point.stage2_ms_p99:.0f})" for point in points]),
    ]
    if any(point.cost is not None for point in points):
        rows.append(("cost of 1000 images", [f"{point.cost or 0.0:.3g}" for point in points]))
    heads = [f"{number}. {POINTS[point.name]}" for number, point in enumerate(points, start=1) if point.name]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["", *heads])
    body = "".join(f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows)
    return f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"


def _cell(number: Estimate, form: str) -> str:
    if number.value is None:
        return "not defined"
    if number.lower is None or number.upper is None:
        return f"{number.value:{form}}"
    return f"{number.value:{form}}<small>{number.lower:{form}} to {number.upper:{form}}</small>"


def _reward(point: CascadePoint) -> str:
    return point.reward.in_words(".3f")


def _reward_chart(cascade: WholeCascade) -> str:
    rewards = [point.reward for point in (*cascade.points, *cascade.curve)]
    highest = max(one.upper if one.upper is not None else one.value or 0.0 for one in rewards)
    chart = Chart("subnet reward against exit coverage", x="exit coverage", y="subnet reward", top=highest * 1.08)
    _banded(chart, [(point.exit_coverage, point.reward) for point in cascade.curve])
    chart.markers(
        [
            Marker(
                point.exit_coverage,
                point.reward.value or 0.0,
                str(number),
                "good" if point.name == "certified" else "bad" if point.name == "softmax" else "mark",
            )
            for number, point in enumerate(cascade.points, start=1)
        ]
    )
    return chart.svg()


def _error_chart(cascade: WholeCascade) -> str:
    misses = [(point.exit_coverage, point.misses.value or 0.0) for point in cascade.curve]
    alarms = [(point.exit_coverage, point.false_alarms.value or 0.0) for point in cascade.curve]
    highest = max([y for _, y in (*misses, *alarms)] + [0.01])
    chart = Chart("misses and false alarms against exit coverage", x="exit coverage", y="share", top=highest * 1.08)
    chart.line(misses)
    chart.line(alarms, dashed=True)
    return chart.svg()


def _banded(chart: Chart, points: Sequence[tuple[float, Estimate]]) -> None:
    lower = [(x, one.lower) for x, one in points if one.lower is not None]
    upper = [(x, one.upper) for x, one in points if one.upper is not None]
    if lower:
        chart.band(lower, upper)
    chart.line([(x, one.value or 0.0) for x, one in points])


def _code(text: str) -> str:
    """Text with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
