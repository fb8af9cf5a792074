"""Two runs side by side, whether their files are there or were collected."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.config import RunConfig
from offline.errors import PipelineError
from offline.publish.settings import GateSettings
from offline.runs.collection import collect
from offline.runs.run_difference import difference, find_run
from stage1.settings import override
from tests.offline.runs.conftest import House, day

KEEP = GateSettings(keep=2)


@pytest.fixture
def two(house: House) -> House:
    house.night(0, config=RunConfig().to_json().decode())
    house.night(
        1, exits=0.7, config=override(RunConfig(), {"train_supervised.epochs": 3, "seed": 1}).to_json().decode()
    )
    return house


def test_settings_data_and_metrics_are_told_by_name(two: House) -> None:
    one, other = (find_run(two.workspace, two.store, name) for name in ("run00", "last"))
    found = difference(one, other)
    assert found.settings == {"seed": (0, 1), "train_supervised.epochs": (12, 3)}
    assert found.data == {"rows": (100, 101)}
    assert found.metrics == {"exit_coverage": (0.5, 0.7)}
    assert difference(one, one).settings == {}


def test_a_run_whose_files_are_gone_is_told_by_its_line_alone(two: House) -> None:
    for number in range(2, 6):
        two.night(number, exits=0.9)
    collect(two.workspace, two.store, KEEP, day(6))
    gone = find_run(two.workspace, two.store, "run00")
    assert (gone.directory, gone.bundle is not None) == (None, True)
    found = difference(gone, find_run(two.workspace, two.store, "last"))
    assert found.metrics == {"exit_coverage": (0.5, 0.9)}


@pytest.mark.parametrize(
    ("name", "problem"), [("run0", "2 runs begin with 'run0'; runs there: run00, run01"), ("x", "no run is called 'x'")]
)
def test_a_run_that_is_none_or_several_is_told(two: House, name: str, problem: str) -> None:
    with pytest.raises(PipelineError, match=problem):
        find_run(two.workspace, two.store, name)


def test_without_a_run_there_is_none(tmp_path: Path, house: House) -> None:
    with pytest.raises(PipelineError, match="runs there: none"):
        find_run(tmp_path / "empty", house.store, "last")
