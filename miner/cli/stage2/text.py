"""What `cascade stage2 evaluate` and `cascade stage2 report` say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten

from offline.evaluation.cascade_curve import CascadePoint, WholeCascade
from offline.report.cascade_section import POINTS, cascade_lines
from stage1.metrics.estimate import Estimate
from stage1.probability.answer_quality import AnswerQuality, SubgroupQuality
from stage1.probability.server_score import fitted_by
from stage2_bridge.calibration.record import Stage2Record

WIDE, WIDER = 22, 26


def record_text(path: Path, record: Stage2Record) -> str:
    """A record as a table.

    Args:
        path: where it was written.
        record: of a server.
    """
    server, answers, latency = record.server, record.answers, record.latency
    version = f", version {server.version}" if server.version else ""
    kind, rows = ("", 0) if record.calibrator is None else fitted_by(record.calibrator)
    lines = [
        f"{server.name} ({server.kind}): {server.model}{version}",
        f"{answers.rows} test rows in {answers.groups} groups, {answers.positives} with roadwork",
        f"calibrated on {rows} rows of val_select{f', {kind}' if kind else ''}",
        _line("", "as it is", "calibrated", "Stage-1 on these rows"),
        *(_numbers(name, form, take, record) for name, form, take in MEASURES),
        _line("calibration error", *(f"{one.calibration.expected_calibration_error:.3f}" for one in _three(record))),
        _line("Brier score", *(f"{one.calibration.brier:.3f}" for one in _three(record))),
        _line(
            "latency",
            f"p50 {latency.p50_ms:.0f} ms, p99 {latency.p99_ms:.0f} ms, mean {latency.mean_ms:.0f} ms "
            f"({latency.calls} answers, {latency.at_a_time} at a time)",
        ),
        _line("cost", "no price is named" if record.price is None else f"{record.price:g} an image"),
        _line("could not answer", f"{record.refused} test rows"),
        *_order(record),
        _line("gain of handing on", _gains(record)),
    ]
    if record.subgroups:
        lines.append("in parts of the test rows, calibrated:")
        lines += [_subgroup(one) for one in record.subgroups]
    lines += [f"note: {note}" for note in record.notes]
    return "\n".join([*lines, f"written to {path}"])


def cascades_text(cascades: Sequence[WholeCascade], page: Path, *, infeasible: bool) -> str:
    """The cascade with each server, as a table of its points and in words.

    Args:
        cascades: one for each server.
        page: where the page was written.
        infeasible: whether nothing was certified.
    """
    lines = []
    for cascade in cascades:
        lines += [
            f"with {cascade.server} ({cascade.model}), on {cascade.rows} test rows in {cascade.groups} groups",
            _line("", "exits", "reward", "accuracy", "misses", "false alarms"),
            *(_point(point) for point in cascade.points),
            *cascade_lines(cascade, infeasible=infeasible),
        ]
    return "\n".join([*lines, f"page: {page}"])


def _point(point: CascadePoint) -> str:
    assert point.name is not None
    rates = (point.accuracy, point.misses, point.false_alarms)
    told = [point.reward.in_words(".3f"), *(one.in_words(".1%") for one in rates)]
    return _line(POINTS[point.name], f"{point.exit_coverage:.1%}", *told)


MEASURES: tuple[tuple[str, str, Callable[[AnswerQuality], Estimate]], ...] = (
    ("AUROC", ".3f", lambda one: one.auroc),
    ("MCC", ".3f", lambda one: one.mcc),
    ("accuracy", ".1%", lambda one: one.accuracy),
    ("misses", ".1%", lambda one: one.misses),
    ("false alarms", ".1%", lambda one: one.false_alarms),
)


def _three(record: Stage2Record) -> tuple[AnswerQuality, AnswerQuality, AnswerQuality]:
    return record.raw, record.answers, record.stage1


def _numbers(name: str, form: str, take: Callable[[AnswerQuality], Estimate], record: Stage2Record) -> str:
    return _line(name, *(take(one).in_words(form) for one in _three(record)))


def _line(name: str, *cells: str) -> str:
    return f"{name:<{WIDE}}{''.join(f'{cell:<{WIDER}}' for cell in cells)}".rstrip()


def _order(record: Stage2Record) -> list[str]:
    gap = record.order_gap
    return [] if gap is None else [_line("order of the answers", f"moves a score by {gap:.3f} in the mean")]


def _gains(record: Stage2Record) -> str:
    told = ", ".join(f"{record.gain.gain(p):+.1%} at {p:g}" for p in (0.1, 0.3, 0.5, 0.7, 0.9))
    return f"{told} (in accuracy, by what Stage-1 gives the image)"


def _subgroup(one: SubgroupQuality) -> str:
    area = "" if one.auroc is None else f", AUROC {one.auroc:.3f}"
    name, rows = shorten(f"{one.column} {one.value}", 36), f"{one.rows} rows, {one.positives} with roadwork"
    return f"  {name:<38}{rows}: accuracy {one.accuracy:.1%}, MCC {one.mcc:.3f}{area}"
