"""What a person asks to run again is among the stages that they ask for, or they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from offline.config import PRESETS
from offline.errors import PipelineError
from offline.night import plan_night, run_night, stages
from offline.pipeline.choice import Choice


@pytest.mark.parametrize("asked", [{"start": "export"}, {"again": "export"}])
@pytest.mark.parametrize("bounds", [{"until": "splits"}, {"only": "splits"}])
def test_a_stage_that_is_to_run_again_is_among_those_that_are_asked_for(
    asked: dict[str, str], bounds: dict[str, str]
) -> None:
    with pytest.raises(PipelineError, match="export is to run again, and is not among the stages that are asked for"):
        Choice(**asked, **bounds).wanted(stages())


def test_what_follows_from_a_stage_need_not_be_asked_for() -> None:
    wanted = Choice(start="export", until="export").wanted(stages())
    assert "export" in wanted
    assert "publish" not in wanted


@pytest.mark.parametrize("night", [run_night, plan_night])
def test_a_stage_that_there_is_not_is_told_before_the_data_are_read(
    tmp_path: Path, night: Callable[..., object]
) -> None:
    with pytest.raises(PipelineError, match="no stage is called 'calibrate'; the stages are splits, "):
        night(
            tmp_path / "nowhere",
            workspace=tmp_path / "workspace",
            store=tmp_path / "store",
            config=PRESETS["tiny"],
            choice=Choice(only="calibrate"),
        )
