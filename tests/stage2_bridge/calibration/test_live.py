"""Calibrators at work: by the record of the very server, and said where it is another one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from engines.errors import RemoteError
from engines.store.stage2_scores import HOME, RECORD
from stage1.probability.server_score import calibrated_scores
from stage2_bridge.bridge import Bridge
from stage2_bridge.calibration.live import AGAIN_S, LOOK_S, Calibrations
from stage2_bridge.calibration.record import Stage2Record
from stage2_bridge.client import Outcome, ServerIdentity
from tests.stage2_bridge.calibration.test_record import SERVER, record

NEWER = replace(SERVER, version="2", fingerprint="def")
ANOTHER = replace(SERVER, model="other", fingerprint="ghi")


def kept(root: Path, found: Stage2Record, place: str = "one") -> Stage2Record:
    (root / HOME / place).mkdir(parents=True)
    found.write(root / HOME / place / RECORD)
    return found


def by(found: Stage2Record, score: float) -> float:
    assert found.calibrator is not None
    return float(calibrated_scores(found.calibrator, np.array([score]), found.floor)[0])


def test_the_server_that_was_asked_answers_by_its_record(tmp_path: Path) -> None:
    found = kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    assert calibrations.status(["yolo"])[0].state == "unchecked"
    with capture_logs() as logs:
        calibrations.learn({"yolo": SERVER})
        calibrations.learn({"yolo": SERVER})
    assert [one["event"] for one in logs] == ["stage2_calibrated"]
    assert calibrations.calibrated("yolo", 0.25) == pytest.approx(by(found, 0.25))
    assert calibrations.calibrated("yolo", 0.25) != 0.25
    [status] = calibrations.status(["yolo"])
    assert (status.state, status.applied, status.model, status.bundle) == ("current", True, "yolox 1", found.bundle)
    assert calibrations.gain("yolo") == found.gain


def test_a_record_of_another_bundle_than_the_live_one_is_told_and_calibrates_all_the_same(tmp_path: Path) -> None:
    found, live = kept(tmp_path, record()), [""]
    calibrations = Calibrations(tmp_path, lambda: live[0])
    calibrations.learn({"yolo": SERVER})
    answers = []
    for bundle, other in (("", False), (found.bundle, False), ("another", True)):
        live[0] = bundle
        [status] = calibrations.status(["yolo"])
        assert (status.state, status.other_bundle) == ("current", other)
        assert calibrations.of_live_bundle("yolo") is not other
        answers.append(calibrations.calibrated("yolo", 0.25))
    assert answers == [pytest.approx(by(found, 0.25))] * 3
    assert not calibrations.status(["nobody"])[0].other_bundle


def test_a_twin_under_another_name_shares_the_record(tmp_path: Path) -> None:
    found = kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    assert calibrations.calibrated("twin", 0.25) == 0.25
    calibrations.learn({"twin": replace(SERVER, name="twin")})
    assert calibrations.status(["twin"])[0].state == "current"
    assert calibrations.calibrated("twin", 0.25) == pytest.approx(by(found, 0.25))


def test_another_version_is_told_and_the_old_calibrator_stays_in_use(tmp_path: Path) -> None:
    found = kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    calibrations.learn({"yolo": SERVER})
    with capture_logs() as logs:
        calibrations.learn({"yolo": NEWER})
    [told] = logs
    assert (told["event"], told["log_level"]) == ("stage2_calibration_stale", "warning")
    assert (told["model"], told["calibrated_on"]) == ("yolox 2", "yolox 1")
    assert "stays in use" in told["consequence"]
    assert told["changed"] == "the version of the model"
    [status] = calibrations.status(["yolo"])
    assert (status.state, status.applied) == ("stale", True)
    assert calibrations.calibrated("yolo", 0.25) == pytest.approx(by(found, 0.25))


def test_the_scores_of_another_model_are_taken_as_they_are(tmp_path: Path) -> None:
    kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    with capture_logs() as logs:
        calibrations.learn({"yolo": ANOTHER})
    assert logs[0]["consequence"] == "its scores are taken as they are"
    assert logs[0]["changed"] == "the model"
    [status] = calibrations.status(["yolo"])
    assert (status.state, status.applied) == ("stale", False)
    assert calibrations.calibrated("yolo", 0.25) == 0.25


def test_other_flags_or_another_prompt_are_told_as_such(tmp_path: Path) -> None:
    kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    calibrations.learn({"yolo": replace(SERVER, fingerprint="xyz")})
    [status] = calibrations.status(["yolo"])
    assert (status.state, status.applied) == ("stale", True)
    assert "how it is asked" in status.changed


def test_an_evaluation_while_the_miner_runs_is_taken_over(tmp_path: Path) -> None:
    calibrations = Calibrations(tmp_path)
    with capture_logs() as logs:
        calibrations.learn({"yolo": SERVER})
    assert logs[0]["event"] == "stage2_not_calibrated"
    assert calibrations.calibrated("yolo", 0.25) == 0.25
    found = kept(tmp_path, record())
    calibrations.learn({"yolo": SERVER})
    assert calibrations.calibrated("yolo", 0.25) == pytest.approx(by(found, 0.25))
    newer = record().model_copy(update={"server": NEWER, "calibrator": None, "evaluated_at": "2026-12-01T00:00:00"})
    kept(tmp_path, newer, "two")
    calibrations.learn({"yolo": NEWER})
    assert calibrations.status(["yolo"])[0].state == "current"
    assert calibrations.calibrated("yolo", 0.25) == 0.25


def test_a_server_that_is_away_is_who_it_was_and_is_looked_for_sooner(tmp_path: Path) -> None:
    kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    answers: list[Mapping[str, ServerIdentity | Exception]] = [
        {"yolo": SERVER},
        {"yolo": RemoteError("refused")},
        {"yolo": NEWER},
    ]
    waits: list[float] = []

    async def identities(_: float) -> Mapping[str, ServerIdentity | Exception]:
        return answers.pop(0)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        states.append(calibrations.status(["yolo"])[0].state)
        if not answers:
            raise asyncio.CancelledError

    states: list[str] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(calibrations.watch(identities, sleep))
    assert states == ["current", "current", "stale"]
    assert waits == [LOOK_S, AGAIN_S, LOOK_S]


def test_a_damaged_record_keeps_no_miner_from_answering(tmp_path: Path) -> None:
    kept(tmp_path, record())
    (tmp_path / HOME / "one" / RECORD).write_text("{")
    with capture_logs() as logs:
        calibrations = Calibrations(tmp_path)
        calibrations.learn({"yolo": SERVER})
    assert [one["event"] for one in logs] == ["stage2_record_damaged", "stage2_not_calibrated"]
    assert calibrations.calibrated("yolo", 0.25) == 0.25


class Timid:
    """Answers a quarter."""

    name = "yolo"

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        return 0.25

    async def close(self) -> None:
        pass


def test_the_bridge_answers_with_the_calibrated_probability(tmp_path: Path) -> None:
    found = kept(tmp_path, record())
    calibrations = Calibrations(tmp_path)
    calibrations.learn({"yolo": SERVER})

    async def ask() -> float | None:
        clock = asyncio.get_running_loop().time
        bridge = Bridge(Timid(), max_in_flight=1, calibrated=calibrations.calibrated, clock=clock)
        verdict = await bridge.ask(b"image", clock() + 5)
        assert verdict.outcome is Outcome.ANSWERED
        assert verdict.server == "yolo"
        return verdict.probability

    assert asyncio.run(ask()) == pytest.approx(by(found, 0.25))
