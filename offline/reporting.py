"""`report.html`: one self-contained page, no network, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from offline.evaluating import CurvePoint, PolicyReport, Report
from stage1.certificate import ScrcParams
from stage1.risks import Rate, Risk

NAMES = {"scrc": "SCRC", "threshold_baseline": "0.88 / 0.12 softmax baseline"}
RISK_NAMES = {
    Risk.MISS_EXIT: "miss rate on exits (D2)",
    Risk.MISS_ALL: "miss rate, all roadwork (D1)",
    Risk.FALSE_OMISSION: "roadwork among exits as 0 (D3)",
    Risk.ERROR_EXIT: "error on exits (D4)",
}
WIDTH, HEIGHT, MARGIN = 640, 300, 46

STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --paper: #fff; --soft: #667; --line: #d5d8de; --mark: #1b66c9;
  --good: #17703c; --bad: #a8321f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #15171b; --soft: #9aa0ac; --line: #363a42;
  --mark: #6ea8ff; --good: #58c48a; --bad: #ff8a73; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 46rem; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.status { font-weight: 700; } .CERTIFIED { color: var(--good); } .INFEASIBLE { color: var(--bad); }
blockquote { border-left: 3px solid var(--mark); margin: 1rem 0; padding: .2rem 1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } small, figcaption { color: var(--soft); }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
"""


def render(report: Report, params: ScrcParams, *, title: str, data: str) -> str:
    """The page.

    Args:
        report: evaluation on the test rows.
        params: the calibrated policy and its certificate.
        title: heading.
        data: one sentence about the data, shown under the heading.
    """
    names = "".join(f"<th>{NAMES[policy.policy]}</th>" for policy in report.policies)
    certificate = params.statement if params.status == "CERTIFIED" else params.reason
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(data)}</p>
<h2>Certificate: <span class="status {params.status}">{params.status}</span></h2>
<blockquote>{escape(certificate)}</blockquote>
{_infeasible_note(params)}
<h2>On the test rows</h2>
<p>{report.rows} images in {report.groups} groups, {report.positives} with roadwork; none of them trained, chose or
certified anything.</p>
<div class="scroll"><table><thead><tr><th></th>{names}</tr></thead>
<tbody>{_policy_rows(report)}</tbody></table></div>
<p><small>A rate is followed by events / trials and its one-sided {1 - report.delta:.0%} Clopper-Pearson upper bound
(lower bound for coverage), with one {params.unit} as the unit. The bounds are not simultaneous.</small></p>
<h2>Stage-1 alone</h2>
<div class="scroll"><table><tbody>{_alone_rows(report)}</tbody></table></div>
<h2>Selective risk against coverage</h2>
<figure>{_curve_svg(report.curve)}<figcaption>Error rate among the answered images, the safest by selection score first.
</figcaption></figure>
</body></html>
"""


def _infeasible_note(params: ScrcParams) -> str:
    return (
        ""
        if params.rule is not None
        else "<p>Nothing exits: every image is deferred to Stage-2 and still answered.</p>"
    )


def _rate(rate: Rate, *, bound: str) -> str:
    if rate.estimate is None:
        return "no trials"
    limit = f"&ge; {rate.lower:.2%}" if bound == "lower" else f"&le; {rate.upper:.2%}"
    return f"{rate.estimate:.2%} <small>({rate.events}/{rate.trials}, {limit})</small>"


def _policy_rows(report: Report) -> str:
    def row(name: str, cells: Sequence[str]) -> str:
        return f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"

    policies: tuple[PolicyReport, ...] = report.policies
    rows = [row("certified", ["yes" if p.certified else "no" for p in policies])]
    rows.append(row("exit coverage", [_rate(p.exit_coverage, bound="lower") for p in policies]))
    rows.append(row("roadwork that exits", [_rate(p.positives_exited, bound="lower") for p in policies]))
    rows += [row(name, [_rate(p.risks[risk], bound="upper") for p in policies]) for risk, name in RISK_NAMES.items()]
    target = f"these rows alone would certify {report.alpha:.1%}"
    return "".join([*rows, row(target, ["yes" if p.within_target else "no" for p in policies])])


def _alone_rows(report: Report) -> str:
    values = {
        "accuracy": report.accuracy,
        "MCC": report.mcc,
        "subnet reward, simulated": report.reward,
        "AUGRC": report.augrc,
        "log-loss, calibrated": report.log_loss,
    }
    return "".join(f"<tr><td>{name}</td><td>{value:.4f}</td></tr>" for name, value in values.items())


def _curve_svg(curve: Sequence[CurvePoint]) -> str:
    top = max([point.selective_risk for point in curve] + [0.01]) * 1.1

    def place(coverage: float, risk: float) -> tuple[float, float]:
        return MARGIN + coverage * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - risk / top * (HEIGHT - 2 * MARGIN)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(p.coverage, p.selective_risk) for p in curve))
    marks = []
    for k in range(6):
        x, y = place(k / 5, 0)
        marks.append(f'<text x="{x:.0f}" y="{y + 20:.0f}" text-anchor="middle">{k / 5:.0%}</text>')
    for k in range(1, 5):
        x, y = place(0, top * k / 4)
        marks.append(f'<line x1="{x:.0f}" x2="{WIDTH - MARGIN}" y1="{y:.0f}" y2="{y:.0f}" stroke="var(--line)"/>')
        marks.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{top * k / 4:.1%}</text>')
    (left, bottom), right = place(0, 0), WIDTH - MARGIN
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="selective risk against coverage" '
        f'font-size="12" fill="var(--soft)">{"".join(marks)}'
        f'<line x1="{left:.0f}" x2="{right}" y1="{bottom:.0f}" y2="{bottom:.0f}" stroke="var(--soft)"/>'
        f'<polyline points="{line}" fill="none" stroke="var(--mark)" stroke-width="2"/>'
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">coverage</text></svg>'
    )
