"""The scoreboard: what the validator got, joined with what the miner's journal says it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engines.store.file_names import PARAMS
from miner.answering.journal import read_journal
from miner.answering.record import RequestRecord
from miner.simulation.exchange import Exchange
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Rate, Risk, Units, conditions
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.decisions import DEFERRED, Action, Decisions
from stage1.metrics.classification import accuracy, matthews_correlation
from stage1.metrics.reward import rounded, subnet_reward
from stage2_bridge.client import Outcome


@dataclass(frozen=True)
class Scoreboard:
    """Measured in one run.

    Attributes:
        requests: requests sent.
        failed: requests without a probability.
        accuracy: of the answers.
        mcc: of the answers.
        reward: subnet reward, mean over the stream.
        stage1_accuracy: accuracy had Stage-1 answered everything.
        exits: exit coverage of the live traffic, by unit.
        misses: miss rate on exits of the live traffic, by unit.
        handed_over: share of the requests that went to Stage-2.
        stage2_late: hand-offs that Stage-2 did not answer.
        p50_ms: median time of an answer, as the validator saw it.
        p99_ms: 99th percentile.
        swaps: bundle changes while requests were answered.
        params: policies that served, in order.
        bundles: their ids.
        cold_start_s: from starting the miner's process to its first answer.
        ready_s: from starting the miner's process to listening.
        resident_mib: resident memory of the miner at the end.
        note: how the swap came about.
    """

    requests: int
    failed: int
    accuracy: float
    mcc: float
    reward: float
    stage1_accuracy: float
    exits: Rate
    misses: Rate
    handed_over: Rate
    stage2_late: int
    p50_ms: float
    p99_ms: float
    swaps: int
    params: tuple[ScrcParams, ...]
    bundles: tuple[str, ...]
    cold_start_s: float
    ready_s: float
    resident_mib: float
    note: str


def score(
    asked: list[Exchange],
    state: Path,
    bundles: dict[str, Path],
    *,
    cold_start_s: float,
    ready_s: float,
    resident_mib: float,
    note: str,
) -> Scoreboard:
    """Join the validator's answers with the miner's journal.

    Args:
        asked: all requests, in order.
        state: the miner's state directory.
        bundles: directory of each bundle.
        cold_start_s: see `Scoreboard`.
        ready_s: see `Scoreboard`.
        resident_mib: see `Scoreboard`.
        note: see `Scoreboard`.
    """
    journal = {record.image_sha256: record for record in read_journal(state)}
    good = [request for request in asked if request.answered]
    records = [journal[request.sha256] for request in good]
    labels = np.asarray([request.label for request in good], np.int8)
    answers = np.asarray([request.prediction for request in good], np.float64)
    served = list(dict.fromkeys(r.bundle for r in sorted(records, key=lambda r: r.generation)))
    params = tuple(ScrcParams.read(bundles[bundle] / PARAMS) for bundle in served)
    exits, misses = _exits(good, records, labels, params[-1])
    deferred = [record for record in records if record.action is Action.DEFER]
    latency = np.asarray([request.ms for request in good])
    stage1 = np.asarray([record.stage1_probability for record in records], np.float64)
    return Scoreboard(
        requests=len(asked),
        failed=len(asked) - len(good),
        accuracy=accuracy(labels, rounded(answers)),
        mcc=matthews_correlation(labels, rounded(answers)),
        reward=subnet_reward(np.asarray([a.label for a in asked]), np.asarray([a.scored for a in asked])),
        stage1_accuracy=accuracy(labels, rounded(stage1)),
        exits=exits,
        misses=misses,
        handed_over=Rate.count(len(deferred), len(records), params[-1].delta),
        stage2_late=sum(record.stage2 is not Outcome.ANSWERED for record in deferred),
        p50_ms=float(np.quantile(latency, 0.5)),
        p99_ms=float(np.quantile(latency, 0.99)),
        swaps=len({record.generation for record in records}) - 1,
        params=params,
        bundles=tuple(served),
        cold_start_s=cold_start_s,
        ready_s=ready_s,
        resident_mib=resident_mib,
        note=note,
    )


def _exits(
    good: list[Exchange], records: list[RequestRecord], labels: NDArray[np.int8], params: ScrcParams
) -> tuple[Rate, Rate]:
    exit_label = np.asarray(
        [DEFERRED if r.prediction_set is None or len(r.prediction_set) > 1 else r.prediction_set[0] for r in records],
        np.int8,
    )
    everything = np.ones(len(good), bool)
    decisions = Decisions.from_exit_labels(exit_label, ~everything)
    units = Units.of([a.image for a in good], [a.group for a in good], unit=params.unit, seed=params.seed)
    misses = units.count(*conditions(Risk.MISS_EXIT, labels, decisions, everything))
    return Rate.count(*units.count(everything, decisions.exits), params.delta), Rate.count(*misses, params.delta)


def _percent(rate: Rate) -> str:
    return "none" if rate.estimate is None else f"{rate.estimate:.1%}"


def render_scoreboard(board: Scoreboard, *, wall_s: float, report: Path, synthetic: bool) -> RenderableType:
    """The scoreboard for a terminal."""
    params = board.params[-1]
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in (
        ("requests", f"{board.requests} sent by a bittensor dendrite, {board.failed} failed"),
        ("accuracy", f"{board.accuracy:.3f}   (Stage-1 alone {board.stage1_accuracy:.3f})"),
        ("MCC", f"{board.mcc:.3f}"),
        ("subnet reward", f"{board.reward:.3f}   (mean over the stream)"),
        ("exit coverage", f"{_percent(board.exits)}   ({board.exits.events} of {board.exits.trials} {params.unit}s)"),
        ("miss rate on exits", _miss(board, params)),
        ("policy", _policy(board)),
        ("handed to Stage-2", f"{_percent(board.handed_over)}   ({board.stage2_late} not answered in time)"),
        ("latency", f"p50 {board.p50_ms:.1f} ms   p99 {board.p99_ms:.1f} ms   (seen by the validator)"),
        ("hot swaps", f"{board.swaps}   {' -> '.join(board.bundles)}"),
        ("", f"[dim]{board.note}"),
        ("cold start", f"{board.cold_start_s:.1f} s to the first answer, {board.ready_s:.1f} s to listening"),
        ("resident memory", f"{board.resident_mib:.0f} MiB, both stages in the miner's process"),
        ("report", str(report)),
        ("wall time", f"{wall_s:.0f} s"),
    ):
        table.add_row(name, value)
    words = params.statement if params.status == "CERTIFIED" else f"INFEASIBLE: {params.reason}"
    kind = "synthetic scenes; says nothing about real streets" if synthetic else "labelled images of --data"
    return Group(Panel(table, title=f"Scoreboard ({kind})"), Panel(Text(words), title="Certificate of the live bundle"))


def _miss(board: Scoreboard, params: ScrcParams) -> str:
    if board.misses.estimate is None:
        return "no roadwork image exited"
    seen = f"{board.misses.events} of {board.misses.trials} exited roadwork {params.unit}s here"
    bound = f"{confidence(params.delta)} upper bound {at_most(board.misses.upper)}"
    return f"{board.misses.estimate:.2%}   ({seen}; {bound})"


def _policy(board: Scoreboard) -> str:
    texts = []
    for params in dict.fromkeys(p.status for p in board.params):
        first = next(p for p in board.params if p.status == params)
        goal = f"at {at_most(first.alpha)} miss rate, {confidence(first.delta)} confidence, unit {first.unit}"
        colour = "green" if params == "CERTIFIED" else "red"
        texts.append(f"[{colour}]{params}[/] {goal}")
    return "; ".join(texts)
