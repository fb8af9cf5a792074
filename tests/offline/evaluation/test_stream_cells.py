"""Every era and level by itself: the same rows, the same rule, counted by the unit of the certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from offline.data.dataset import Dataset, Row
from offline.evaluation.stream_cells import CellReport, judge_cell, judge_cells
from offline.report.stream_section import stream_section
from offline.stream.challenge import CELLS
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.statistics.binomial import lower_bound, upper_bound
from stage1.decisions import Decisions
from stage1.outputs import Stage1Outputs
from stage1.preprocess import PreprocessSettings
from tests.support.challenges import jpeg, patches


class Fixed:
    """A policy that decides as it is told."""

    def __init__(self, exit_label: list[int]) -> None:
        self.exit_label = np.asarray(exit_label, np.int8)

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        return Decisions.from_exit_labels(self.exit_label, np.zeros(len(outputs), bool))


def test_a_cell_counts_misses_exits_and_false_alarms_by_group(
    outputs_of: Callable[..., Stage1Outputs], certificate: Callable[..., ScrcParams]
) -> None:
    """Two frames of each place decided alike: five places with roadwork, three without."""
    by_place = [0, 1, 1, 1, -1, 1, 0, -1]
    labels = np.repeat([1, 1, 1, 1, 1, 0, 0, 0], 2).astype(np.int8)
    ids = [str(n) for n in range(16)]
    rows = LabelledOutputs(outputs_of(np.zeros(16)), labels, ids, [str(n // 2) for n in range(16)])
    params = certificate()
    found = judge_cell("a cell", rows, Fixed(np.repeat(by_place, 2).tolist()), params)
    assert (found.rows, found.positives) == (16, 5)
    assert [(rate.events, rate.trials) for rate in (found.misses, found.exits, found.false_alarms)] == [
        (1, 4),
        (6, 8),
        (1, 3),
    ]
    assert found.misses.upper == pytest.approx(upper_bound(1, 4, params.delta))
    assert found.exits.lower == pytest.approx(lower_bound(6, 8, params.delta))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("cells")
    whole = patches()
    for n in range(8):
        (root / f"{n}.jpg").write_bytes(jpeg(whole.crop((90 * n, 50 * n, 90 * n + 160, 50 * n + 90))))
    return Dataset(root, tuple(Row(image=f"{n}.jpg", label=n % 2, group=f"{n}") for n in range(8)))


def cells_of(rows: Dataset, engine: Path, params: ScrcParams, most: int) -> tuple[CellReport, ...]:
    opened = OnnxEngine(engine)
    try:
        settings = PreprocessSettings(size_px=32)
        return judge_cells(opened, rows, params, settings, most=most, progress=lambda *_: None)
    finally:
        opened.close()


def test_every_row_goes_through_every_cell_and_originals(
    rows: Dataset, tiny_engine: Path, certificate: Callable[..., ScrcParams]
) -> None:
    found = cells_of(rows, tiny_engine, certificate(), 100)
    assert [cell.cell for cell in found] == ["originals", *(str(cell) for cell in CELLS)]
    assert {cell.rows for cell in found} == {8}
    assert cells_of(rows, tiny_engine, certificate(), 100) == found


def test_the_time_is_bounded_by_a_number_of_rows_that_their_order_does_not_change(
    rows: Dataset, tiny_engine: Path, certificate: Callable[..., ScrcParams]
) -> None:
    few = cells_of(rows, tiny_engine, certificate(), 3)
    assert {cell.rows for cell in few} == {3}
    assert cells_of(replace(rows, rows=rows.rows[::-1]), tiny_engine, certificate(), 3) == few
    assert cells_of(rows, tiny_engine, certificate(), 0) == ()


def test_nothing_is_sent_where_nothing_exits(
    rows: Dataset, tiny_engine: Path, certificate: Callable[..., ScrcParams]
) -> None:
    assert cells_of(rows, tiny_engine, certificate(feasible=False), 100) == ()


def test_the_report_shows_each_cell_with_its_bounds(
    rows: Dataset, tiny_engine: Path, certificate: Callable[..., ScrcParams]
) -> None:
    params = certificate()
    section = stream_section(cells_of(rows, tiny_engine, params, 100), params)
    assert section.count("<tr>") == 1 + 1 + len(CELLS)
    for words in ("stream mixture", "challenges-2026-01, level 3", "false alarms", "90% Clopper-Pearson", "a group"):
        assert words in section
    assert "No row was sent" in stream_section((), certificate(feasible=False))
