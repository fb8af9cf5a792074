"""`cascade plan --monitor` in words and numbers."""

from __future__ import annotations

from stage1.certificate.statistics.percent import at_most
from stage1.monitor.detection import Traffic, detection
from stage1.monitor.risk_monitor import MonitorTerms
from stage1.monitor.settings import AuditShares

TIMES = (1.5, 2, 3, 5, 10)
SPECIFICITIES = (0.999, 0.99, 0.95)


def monitor_plan(
    alpha: float, requests: float, prevalence: float, exit_share: float, exit0: float, exit1: float
) -> str:
    """How soon the watch notices that a certificate no longer holds, and what it costs.

    Args:
        alpha: certified miss rate on exits.
        requests: places that are asked about, a day.
        prevalence: share of them that shows roadwork.
        exit_share: share of the roadwork that exits.
        exit0: share of exits as no roadwork that is audited.
        exit1: share of exits as roadwork that is audited.
    """
    terms = MonitorTerms(alpha=alpha, shares=AuditShares(exit0=exit0, exit1=exit1))
    traffic = Traffic(requests=requests, prevalence=prevalence, exit_share=exit_share)
    lines = [
        f"With {requests:,.0f} places a day, of which {prevalence:.0%} show roadwork, and audits of {exit0:.0%} of the",
        f"exits as no roadwork and {exit1:.0%} of those as roadwork, a certificate of at most {at_most(alpha)}:",
        "",
        "  true miss rate on exits   days until the alarm, about   audits a day   labels by people a day",
    ]
    for times in TIMES:
        rate = min(alpha * times, 0.99)
        found = detection(rate, traffic, terms)
        days = "never" if found.days is None else f"{found.days:.1f}"
        lines.append(f"  {rate:>23.2%} {days:>29} {found.audits:>14.0f} {found.labels:>24.1f}")
    lines += ["", "People look at what Stage-2 contradicts. How much that is depends on how rarely it cries wolf:"]
    for specificity in SPECIFICITIES:
        other = Traffic(requests, prevalence, exit_share, specificity=specificity)
        labels = detection(2 * alpha, other, terms).labels
        lines.append(f"  right on {specificity:.1%} of pictures without roadwork: {labels:.1f} labels a day")
    return "\n".join(
        [
            *lines,
            "",
            "Days are the median from the first day on; after a long good time the change detector takes about as",
            "long again. One exit of a place is audited, so places count, and not images.",
        ]
    )
