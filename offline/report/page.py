"""`report.html`: one self-contained page, no network, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from offline.evaluation.evaluate import CurvePoint, Mistake, Report
from offline.evaluation.policy_comparison import PolicyReport, SubgroupReport
from offline.report.certificate_section import SHOWN_RISKS, certificate_section, second_look_section
from offline.report.charts import Chart, Marker
from offline.report.gate_section import NOT_JUDGED
from offline.report.rate_cell import rate_cell
from offline.report.stream_section import stream_section
from offline.report.thumbnails import embedded
from offline.report.training_section import NOT_COMPARED
from offline.report.where_it_looked import TOLD, Look
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.metrics.estimate import Estimate
from stage1.outputs import GateScore
from stage1.probability.quality import CalibrationQuality

NAMES = {
    "scrc": "SCRC",
    "scrc_i": "SCRC-I",
    "scrc_t": "SCRC-T",
    "scrc_t_label": "SCRC-T, roadwork only",
    "crc": "CRC on D1",
    "threshold_baseline": "0.88 / 0.12 softmax",
    "threshold_swept": "swept softmax",
}
ALONE_NAMES = {
    "accuracy": "accuracy",
    "mcc": "MCC",
    "reward": "subnet reward, simulated",
    "augrc": "AUGRC",
    "excess_augrc": "e-AUGRC, above a perfect ranking",
    "augrc_balanced": "AUGRC, classes weighted equally",
    "aurc": "AURC",
    "excess_aurc": "e-AURC",
    "auroc_of_failures": "AUROC of right against wrong answers",
    "risk_at_coverage_0.5": "error rate of the safest 50%",
    "risk_at_coverage_0.8": "error rate of the safest 80%",
    "risk_at_coverage_0.9": "error rate of the safest 90%",
    "coverage_at_alpha": "share answered at an error rate of alpha",
}
LEVEL_NAMES = {
    "CONFIDENT_0": "exits: no roadwork",
    "CONFIDENT_1": "exits: roadwork",
    "UNCERTAIN": "to Stage-2",
    "AMBIGUOUS": "to Stage-2, and to human review",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --paper: #fff; --soft: #5c6370; --line: #dcdfe4; --mark: #1b66c9;
  --band: #1b66c922; --good: #17703c; --bad: #b3341f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #15171b; --soft: #9aa0ac; --line: #363a42;
  --mark: #6ea8ff; --band: #6ea8ff2b; --good: #58c48a; --bad: #ff8a73; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 52rem; padding: 1rem; }
h1 { font-size: 1.4rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.status { font-weight: 700; } .CERTIFIED, .PROMOTE, .good { color: var(--good); }
.INFEASIBLE, .REFUSE, .bad { color: var(--bad); }
blockquote { border-left: 3px solid var(--mark); margin: 1rem 0; padding: .2rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8rem; }
.facts td { white-space: normal; } td small { display: block; }
td.why { white-space: normal; text-align: left; min-width: 16rem; }
small, figcaption { color: var(--soft); } tr.first td { font-weight: 600; } tr.first small { font-weight: 400; }
figure { margin: 1rem 0; } figcaption { font-size: .88rem; } svg { width: 100%; height: auto; font-size: 14px; }
svg text { fill: var(--soft); } svg { max-width: 40rem; }
svg .name { fill: var(--paper); font-weight: 600; } .grid { stroke: var(--line); }
.axis { stroke: var(--soft); fill: none; } .curve { stroke: var(--mark); stroke-width: 2; fill: none; }
.dashed { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; } .band { fill: var(--band); }
circle.mark { fill: var(--mark); } circle.good { fill: var(--good); } circle.bad { fill: var(--bad); }
rect.bar { fill: var(--line); }
.stack { display: flex; height: 1.4rem; border-radius: 4px; overflow: hidden; gap: 2px; }
.stack span { min-width: 2px; }
.s0 { background: var(--good); } .s1 { background: var(--mark); } .s2 { background: var(--soft); }
.s3 { background: var(--bad); }
ul.key { list-style: none; padding: 0; margin: .5rem 0; font-size: .92rem; columns: 2 15rem; }
ul.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.mistakes figure { margin: 0; } .mistakes img { width: 100%; border-radius: 4px; display: block; }
.mistakes figcaption { overflow-wrap: anywhere; }
"""
RANKED_BY: dict[GateScore, str] = {
    "margin": "the margin of its calibrated probability",
    "select_score": "its selection score",
}


def render(
    report: Report,
    params: ScrcParams,
    *,
    title: str,
    data: str,
    thumbnails: Mapping[str, bytes] | None = None,
    looks: Mapping[str, Look] | None = None,
    second_look: Mapping[str, bytes] | None = None,
    notes: Sequence[str] = (),
    race: str = "",
    cascade: str = "",
) -> str:
    """The page, with a place for the verdict of the gate.

    Args:
        report: evaluation on the test rows.
        params: the calibrated policy and its certificate.
        title: heading.
        data: one sentence about the data, shown under the heading.
        thumbnails: small JPEGs of the mistakes, by id of the row; those without one are only named.
        looks: where the network looked at them, by id; none if its pool does not look anywhere.
        second_look: small JPEGs of the rows of val_calib whose labels a person should look at again, by id.
        notes: sentences on rows that were left out, or that are not where one would look for them, on what became of
            the adaptation of the backbone, and on a training that did not start.
        cascade: the part on both stages together (see `offline.report.cascade_section`), as HTML.
        race: the part on recipes that raced and on labels to look at (see `offline.report.race_section`), as HTML.
    """
    certificate = params.statement if params.rule is not None else params.reason
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(data)}</p>
{_notes(notes)}
<h2>Certificate: <span class="status {params.status}">{params.status}</span></h2>
<blockquote>{escape(certificate)}</blockquote>
{certificate_section(params)}
{NOT_JUDGED}
<h2>On the test rows</h2>
<p>{report.rows} images in {report.groups} groups, {report.positives} with roadwork; none of them trained, chose or
certified anything.</p>
{_levels(report.policies[0])}
<h2>Policies side by side</h2>
<div class="scroll"><table>{_policy_table(report)}</table></div>
<p><small>A rate stands above its events / trials and its one-sided {confidence(report.delta)} Clopper-Pearson bound
(lower for coverage, upper for a risk), counted on one image a {report.unit}. The bounds hold each by itself. Only
the first policy can be certified; the others promise:
{_promises(report)}.</small></p>
{_gained(report)}
<h2>Miss rate against exit coverage</h2>
<figure>{_miss_chart(report, params)}<figcaption>Line: every image answered by its likelier class, the safest by
{RANKED_BY[report.ranked_by]} first. Numbers: the policies of the table. Dashed: the target.</figcaption></figure>
{cascade}
<h2>Risk against coverage</h2>
<figure>{_risk_chart(report.curve, generalized=False)}<figcaption>Selective risk: error rate among the answered images.
Band: 95% group bootstrap, pointwise.</figcaption></figure>
<figure>{_risk_chart(report.curve, generalized=True)}<figcaption>Generalised risk: answered and wrong, among all images;
the area under it is the AUGRC.</figcaption></figure>
<h2>Stage-1 alone</h2>
<div class="scroll"><table><tbody>{_alone_rows(report)}</tbody></table></div>
<h2>Are the probabilities right?</h2>
<figure>{_reliability_chart(report.calibration[report.answers])}<figcaption>Observed share of roadwork against the
probability that is answered ({report.answers}); bars: share of the images in each bin.</figcaption></figure>
<div class="scroll"><table>{_calibration_rows(report)}</table></div>
{stream_section(report.cells, params)}
{NOT_COMPARED}
{race}
{_subgroups(report)}
{_mistakes(report.mistakes, thumbnails or {}, looks or {})}
{second_look_section(second_look or {})}
</body></html>
"""


def _notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _name(policy: PolicyReport) -> str:
    return f"{NAMES[policy.policy]}, certified" if policy.certified else NAMES[policy.policy]


def _policy_table(report: Report) -> str:
    heads = ["", "exit coverage", "roadwork that exits", *SHOWN_RISKS.values(), "reward at best"]
    rows = []
    for number, policy in enumerate(report.policies, start=1):
        name = f"{number}. {_name(policy)}"
        if policy.policy != "scrc" and policy.infeasible:
            cells = f'<td class="why" colspan="{len(heads) - 1}">infeasible: {escape(policy.infeasible)}</td>'
        else:
            values = [rate_cell(rate, lower=True) for rate in (policy.exit_coverage, policy.positives_exited)]
            values += [rate_cell(policy.risks[risk]) for risk in SHOWN_RISKS]
            cells = "".join(f"<td>{value}</td>" for value in [*values, f"{policy.reward_at_best:.3f}"])
        first = ' class="first"' if policy.policy == "scrc" else ""
        rows.append(f"<tr{first}><td>{escape(name)}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _promises(report: Report) -> str:
    return "; ".join(f"{escape(NAMES[p.policy])}: {escape(p.promise)}" for p in report.policies[1:])


def _gained(report: Report) -> str:
    if not report.gained:
        return ""
    names = {"exit_coverage": "exit coverage", "miss_rate_on_exits": "miss rate on exits"}
    told = [f"{names[name]} {_points(number)}" for name, number in report.gained.items() if number.value is not None]
    return (
        f"<p>Certified policy minus the 0.88 / 0.12 rule, on the same images: {'; '.join(told)} "
        "<small>(percentage points, 95% paired group bootstrap)</small>.</p>"
    )


def _points(number: Estimate) -> str:
    ends = "" if number.lower is None or number.upper is None else f" [{number.lower:+.1%}, {number.upper:+.1%}]"
    return f"{number.value:+.1%}{ends}"


def _levels(policy: PolicyReport) -> str:
    total = sum(policy.levels.values()) or 1
    bars = "".join(
        f'<span class="s{i}" style="flex:{count}" title="{LEVEL_NAMES[name]}"></span>'
        for i, (name, count) in enumerate(policy.levels.items())
        if count
    )
    key = "".join(
        f'<li><i class="s{i}"></i>{LEVEL_NAMES[name]}: {count / total:.1%} <small>({count})</small></li>'
        for i, (name, count) in enumerate(policy.levels.items())
    )
    size = f"Mean size of a prediction set: {policy.average_set_size:.2f}."
    return f'<div class="stack">{bars}</div><ul class="key">{key}</ul><p><small>{size}</small></p>'


def _miss_chart(report: Report, params: ScrcParams) -> str:
    curve = [(p.coverage, p.miss_rate) for p in report.curve if p.miss_rate is not None]
    markers = [
        Marker(
            policy.exit_coverage.estimate or 0.0,
            policy.risks[Risk.MISS_EXIT].estimate or 0.0,
            str(number),
            "good" if policy.certified else "bad" if policy.policy.startswith("threshold") else "mark",
        )
        for number, policy in enumerate(report.policies, start=1)
        if policy.exit_coverage.events and policy.risks[Risk.MISS_EXIT].trials
    ]
    highest = max([y for _, y in curve] + [m.y for m in markers] + [2.5 * report.alpha])
    chart = Chart("miss rate on exits against exit coverage", x="exit coverage", y="miss rate", top=highest * 1.08)
    if params.risk is Risk.MISS_EXIT and params.mode != "coverage":
        chart.level(report.alpha, f"target {at_most(report.alpha)}")
    chart.line(curve or [(0.0, 0.0)])
    chart.markers(markers)
    return chart.svg()


def _risk_chart(curve: Sequence[CurvePoint], *, generalized: bool) -> str:
    points = [(p.coverage, p.generalized_risk if generalized else p.selective_risk) for p in curve]
    highest = max([(e.upper if e.upper is not None else e.value) or 0.0 for _, e in points] + [0.01])
    name = "generalised risk" if generalized else "selective risk"
    chart = Chart(f"{name} against coverage", x="coverage", y=name, top=highest * 1.08)
    lower = [(x, e.lower) for x, e in points if e.lower is not None]
    upper = [(x, e.upper) for x, e in points if e.upper is not None]
    if lower:
        chart.band(lower, upper)
    chart.line([(x, e.value or 0.0) for x, e in points])
    return chart.svg()


def _reliability_chart(quality: CalibrationQuality) -> str:
    chart = Chart("observed share against probability", x="probability of roadwork", y="observed", top=1.0)
    chart.bars([(b.probability, b.count / quality.rows) for b in quality.bins], 0.05)
    chart.line([(0.0, 0.0), (1.0, 1.0)], dashed=True)
    chart.line([(b.probability, b.observed) for b in quality.bins])
    chart.dots([(b.probability, b.observed) for b in quality.bins])
    return chart.svg()


def _alone_rows(report: Report) -> str:
    def cell(number: Estimate) -> str:
        if number.value is None:
            return "<td>not defined</td>"
        ends = "" if number.lower is None or number.upper is None else f"{number.lower:.4f} to {number.upper:.4f}"
        return f"<td>{number.value:.4f}<small>{ends}</small></td>"

    return "".join(f"<tr><td>{name}</td>{cell(report.alone[key])}</tr>" for key, name in ALONE_NAMES.items())


def _calibration_rows(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{kind}{' (answers)' if kind == report.answers else ''}</td><td>{q.negative_log_likelihood:.4f}</td>"
        f"<td>{q.brier:.4f}</td><td>{q.expected_calibration_error:.4f}</td></tr>"
        for kind, q in report.calibration.items()
    )
    return (
        "<thead><tr><th>calibrator</th><th>NLL</th><th>Brier</th><th>ECE, 10 bins</th></tr></thead>"
        f"<tbody>{rows}</tbody>"
    )


def _subgroups(report: Report) -> str:
    if not report.subgroups:
        return ""
    worst = report.worst_subgroup

    def row(found: SubgroupReport) -> str:
        mark = " (worst)" if found == worst else ""
        return (
            f"<tr><td>{escape(found.column)}: {escape(found.value)}{mark}</td><td>{found.rows}</td>"
            f"<td>{found.positives}</td><td>{found.accuracy:.2%}</td>"
            f"<td>{rate_cell(found.exit_coverage, lower=True)}</td><td>{rate_cell(found.miss_rate)}</td></tr>"
        )

    return (
        '<h2>Subgroups</h2><div class="scroll"><table><thead><tr><th>certified policy in</th><th>images</th>'
        "<th>with roadwork</th><th>Stage-1 accuracy</th><th>exit coverage</th><th>miss rate on exits</th></tr></thead>"
        f"<tbody>{''.join(row(found) for found in report.subgroups)}</tbody></table></div>"
        "<p><small>Each bound holds by itself, not all together; worst: the highest upper bound. Mode `balanced` "
        "certifies every subgroup.</small></p>"
    )


def _mistakes(mistakes: Sequence[Mistake], thumbnails: Mapping[str, bytes], looks: Mapping[str, Look]) -> str:
    if not mistakes:
        return "<h2>Most confident mistakes</h2><p>None on these rows.</p>"

    def figure(mistake: Mistake) -> str:
        look = looks.get(mistake.row)
        shown = embedded(thumbnails.get(mistake.row)) + ("" if look is None else embedded(look.picture))
        truth = "roadwork" if mistake.label else "no roadwork"
        told = "" if look is None else f"<br>{look.caption}"
        return (
            f"<figure>{shown}<figcaption>{truth}, answered {mistake.probability:.3f}, "
            f"{LEVEL_NAMES[mistake.level]}{told}<br>{escape(mistake.row)}</figcaption></figure>"
        )

    told = f"<p><small>{TOLD}</small></p>" if looks else ""
    return (
        f'<h2>Most confident mistakes</h2>{told}<div class="mistakes">'
        f"{''.join(figure(mistake) for mistake in mistakes)}</div>"
    )
