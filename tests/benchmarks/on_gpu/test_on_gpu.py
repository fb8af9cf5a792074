"""What only a GPU can show: its files of results, and what is run again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.on_gpu import __main__ as module
from benchmarks.on_gpu.results import code_sha256, is_done, keep, path_of, slug
from benchmarks.on_gpu.units import COMMANDS, Unit


def test_there_are_at_most_three_commands_and_each_unit_fits_into_nine_minutes() -> None:
    assert len(COMMANDS) <= 3
    units = [one for each in COMMANDS.values() for one in each]
    assert len({one.name for one in units}) == len(units)
    assert all(one.least_s <= one.most_s < 9 * 60 for one in units)
    assert module.BUDGET_S + 10 < 9 * 60


@pytest.mark.parametrize(
    ("device", "small", "expected"), [("NVIDIA H200", False, "nvidia-h200"), ("cpu", True, "cpu-small")]
)
def test_the_directory_is_named_after_the_device(device: str, small: bool, expected: str) -> None:
    assert slug(device, small=small) == expected


def test_a_result_counts_until_the_code_changes(tmp_path: Path) -> None:
    path = path_of(tmp_path, "cpu", "swap")
    assert not is_done(path, "a")
    keep(path, {"code": "a", "status": "ok"})
    assert is_done(path, "a")
    assert not is_done(path, "b")
    keep(path, {"code": "a", "status": "failed"})
    assert not is_done(path, "a")
    path.write_text("{")
    assert not is_done(path, "a")


def test_the_code_is_that_of_the_engines_too(tmp_path: Path) -> None:
    for name in ("benchmarks/on_gpu", "engines", "stage1", "offline"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.py").write_text("1")
    for name in ("engines_on_gpu.py", "learning_on_gpu.py"):
        (tmp_path / "benchmarks" / name).write_text("1")
    before = code_sha256(tmp_path)
    assert code_sha256(tmp_path) == before
    (tmp_path / "engines" / "a.py").write_text("2")
    assert code_sha256(tmp_path) != before


def test_units_that_are_there_or_do_not_fit_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = list[str]()

    def run(one: Unit, *_: Any) -> dict[str, Any]:
        begun.append(one.name)
        return {"status": "failed" if one.name == "b" else "ok", "seconds": 1.0, "reason": "out of\nmemory"}

    monkeypatch.setattr(module, "run_apart", run)
    asked: Any = type("Asked", (), {"budget": 100.0, "results": tmp_path})
    units = [Unit("a", "", 1, 2), Unit("b", "", 1, 2), Unit("c", "", 1, 2)]
    keep(path_of(tmp_path, "cpu", "a"), {"code": code_sha256(), "status": "ok"})
    assert module.run_all(units, asked, "cpu") == 1
    assert begun == ["b", "c"]
    told = capsys.readouterr().out
    assert "a: is there" in told
    assert "b: failed in 1 s: memory" in told
    assert json.loads(path_of(tmp_path, "cpu", "c").read_text())["device"] == "cpu"


def test_what_does_not_fit_any_more_is_left_for_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]

    def run(*_: Any) -> dict[str, Any]:
        clock[0] += 80.0
        return {"status": "ok", "seconds": 80.0}

    monkeypatch.setattr(module, "run_apart", run)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    asked: Any = type("Asked", (), {"budget": 100.0, "results": tmp_path})
    units = [Unit("a", "", 60, 90), Unit("b", "", 60, 90)]
    assert module.run_all(units, asked, "cpu") == 3
    assert "left: b; give the command again" in capsys.readouterr().out
    assert module.run_all(units, asked, "cpu") == 0
