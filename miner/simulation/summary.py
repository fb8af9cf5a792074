"""A simulation for a terminal of 80 columns."""

from __future__ import annotations

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from miner.simulation.endings import IN_WORDS, Ending
from miner.simulation.result import Latency, RequestRow, SimulationResult, Window

# Columns of a terminal in which no number is cut off.
NARROWEST = 72
BARS = "▁▂▃▄▅▆▇█"
SPARKS = 60
# Reasons of refusals that are told.
REASONS = 3


def render_result(result: SimulationResult) -> RenderableType:
    """What the validator pays, how fast the miner was, how it went over time and where reward was lost."""
    parts: list[RenderableType] = [_head(result), Text(), _timeline(result), Text(), _losses(result)]
    said = [*_refusals(result), *result.notes]
    if said:
        parts += [Text(), *(Text(f"note: {note}") for note in said)]
    return Group(*parts)


def _head(result: SimulationResult) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    paid = result.paid
    asked = len(result.requests)
    stopped = f"; {asked} of {result.asked_for}: {result.stopped}" if result.stopped else ""
    for name, value in (
        ("requests", f"{asked} of stream {result.stream}, {result.failed} without an answer{stopped}"),
        ("reward", f"{paid.mean:.3f} on average, {paid.last:.3f} after the last request"),
        ("", f"{result.most.mean:.3f} and {result.most.last:.3f} if all were right"),
        ("score", f"{paid.score:.3f}, the validator's moving average of rewards, from 0"),
        ("accuracy", f"{_number(result.accuracy)}   MCC {result.mcc:.3f}, of all answers"),
        ("latency", _latency(result.latency)),
        ("bundle", ", ".join(result.bundles) or "not named by the answers"),
    ):
        table.add_row(name, value)
    return table


def _latency(latency: Latency) -> str:
    if latency.p50 is None:
        return "no answer came"
    return (
        f"p50 {latency.p50:.0f} ms   p95 {latency.p95:.0f} ms   p99 {latency.p99:.0f} ms   "
        f"longest {latency.longest:.0f} ms"
    )


def _timeline(result: SimulationResult) -> Group:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("requests", no_wrap=True)
    for name in ("reward", "MCC of 100", "accuracy", "p95 ms", "unanswered"):
        table.add_column(name, justify="right", no_wrap=True)
    for window in result.timeline:
        table.add_row(*_window(window))
    rewards = [row.reward for row in result.requests]
    return Group(Text.assemble(("reward over time  ", "bold"), (spark_line(rewards), "green")), table)


def _window(window: Window) -> tuple[str, ...]:
    latency = "-" if window.p95_ms is None else f"{window.p95_ms:.0f}"
    span = f"{window.first} to {window.last}"
    return span, f"{window.reward:.3f}", f"{window.mcc:.3f}", _number(window.accuracy), latency, str(window.failed)


def spark_line(values: list[float]) -> str:
    """Values in [0, 1] as bars, at most `SPARKS` of them, each the mean of a span."""
    spans = np.array_split(np.asarray(values), min(SPARKS, len(values)))
    return "".join(BARS[min(len(BARS) - 1, int(span.mean() * len(BARS)))] for span in spans)


def _losses(result: SimulationResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("answered by", no_wrap=True)
    for name in ("requests", "lost", "reward if these were right"):
        table.add_column(name, justify="right")
    there = {share.ending: share for share in result.shares}
    always = {Ending.STAGE1, Ending.STAGE2, Ending.DEGRADED} if Ending.UNKNOWN not in there else {Ending.UNKNOWN}
    for ending in Ending:
        if ending in there:
            share = there[ending]
            gain = share.if_right.mean - result.paid.mean
            worth = f"{share.if_right.mean:.3f} ({gain:+.3f})" if share.lost else "-"
            table.add_row(IN_WORDS[ending], str(share.requests), str(share.lost), worth)
        elif ending in always | {Ending.LATE, Ending.REFUSED}:
            table.add_row(IN_WORDS[ending], "0", "0", "-")
    return table


def _refusals(result: SimulationResult) -> list[str]:
    counts: dict[str, int] = {}
    for row in result.requests:
        if row.ending in {Ending.LATE, Ending.REFUSED}:
            reason = _reason(row)
            counts[reason] = counts.get(reason, 0) + 1
    most = sorted(counts.items(), key=lambda item: -item[1])
    return [f"{count} times: {reason}" for reason, count in most[:REASONS]]


def _reason(row: RequestRow) -> str:
    if row.prediction == -1 and row.status == 200:
        return "the miner answered -1: it could not decode the picture"
    return f"status {row.status}: {row.message}" if row.status else row.message


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
