"""The nightly job: a child of its own, once at a time, ended with all it started, caught up after a missed night."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from filelock import FileLock
from structlog.testing import capture_logs

from engines.machine.disk.disk_thread import DiskThread
from engines.spec import EngineSpec
from miner.cli.options import parsed_changes
from miner.events.event import Event
from miner.nights.crontab import missed
from miner.nights.job import LOCK, NightlyJob
from miner.nights.night_process import Bounds, Ended, run_process
from miner.nights.output import NightOutput
from miner.nights.processes import VARIABLE, ProcessMark, mark_of, new_token
from miner.nights.record import NIGHTS, STAMP, NightRecord, Nights, NightVerdict, RetrainStamp, noted
from miner.nights.settings import RetrainSettings
from offline.config import load_config
from stage1.errors import SettingsError
from stage1.model.settings import RandomBackbone

NIGHT = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
TRIGGER = CronTrigger.from_crontab("30 3 * * *", timezone="UTC")


SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
# What the run itself records when it has published; its last argument is the directory of the night.
PUBLISHED = """
import json, sys
said = {"bundle": "0123456789abcdef", "verdict": "KEEP", "reasons": ["it exits less"], "notes": ["a note"]}
record = {"schema_version": 1, "at": "2026-03-01T05:00:00Z", **said}
open(sys.argv[-1] + "/verdict.json", "w").write(json.dumps(record))
"""


class Told:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def job(
    tmp_path: Path,
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    told: Told | None = None,
    retry_s: tuple[float, ...] = (),
    **settings: object,
) -> NightlyJob:
    """A nightly job whose child runs `script` instead of the pipeline."""
    nightly = NightlyJob(
        RetrainSettings.model_validate({"data": tmp_path, **settings}),
        store=tmp_path / "store",
        state=tmp_path / "state",
        now=lambda: datetime.now(UTC),
        events=told,
        retry_s=retry_s,
    )
    monkeypatch.setattr(nightly, "command", lambda: [sys.executable, "-c", script])
    return nightly


def told_of(nightly: NightlyJob) -> dict[str, Any]:
    """The status, once the disk was read for it."""
    nightly._kept.begin().result(60)
    return nightly.status()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_night_was_missed_if_one_was_due_since_the_last_success() -> None:
    assert missed(TRIGGER, NIGHT, NIGHT + timedelta(hours=25))
    assert not missed(TRIGGER, NIGHT, NIGHT + timedelta(hours=23))


def test_before_the_first_success_nothing_was_missed() -> None:
    assert not missed(TRIGGER, None, NIGHT)


def test_success_is_remembered_and_failure_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(tmp_path / "state")
    assert asyncio.run(job(tmp_path, "raise SystemExit(3)", monkeypatch).run()) == 3
    assert nights.last_success() is None
    assert asyncio.run(job(tmp_path, "pass", monkeypatch).run()) == 0
    success = nights.last_success()
    assert success is not None
    assert success <= datetime.now(UTC)


def test_a_success_of_an_earlier_program_is_remembered(tmp_path: Path) -> None:
    RetrainStamp(started_at=NIGHT).write(tmp_path / STAMP)
    assert Nights(tmp_path).last_success() == NIGHT


def test_a_run_that_cannot_be_started_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    nightly = job(tmp_path, "pass", monkeypatch, told=told)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asyncio.run(nightly.run()) == 126
    assert told.kinds == ["retrain_started", "retrain_failed"]
    assert "cannot be started" in told.events[-1].text
    status = told_of(nightly)
    assert (status["running"], status["outcome"], status["outcomes"]) == (False, "failed", {"failed": 1})
    assert not asyncio.run(nightly.recalibrate("bundle", EngineSpec(backend="onnxruntime")))


def test_it_says_when_the_last_run_started_and_ended_and_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = told_of(job(tmp_path, "", monkeypatch))
    assert (before["running"], before["started_at"], before["outcome"], before["nights"]) == (False, None, "", [])
    succeeding = job(tmp_path, "", monkeypatch)
    asyncio.run(succeeding.run())
    told = told_of(succeeding)
    assert (told["outcome"], told["outcomes"]) == ("done", {"done": 1})
    assert told["started_at"] == told["last_success"] <= told["ended_at"]
    failing = job(tmp_path, "raise SystemExit('no labels')", monkeypatch)
    asyncio.run(failing.run())
    after = told_of(failing)
    # The success is that of the process before.
    assert (after["outcome"], after["last_success"], after["failures_in_a_row"]) == ("failed", told["last_success"], 1)
    assert [night["outcome"] for night in after["nights"]] == ["done", "failed"]
    assert after["nights"][-1]["reason"] == "no labels"


def test_a_night_that_is_done_says_what_the_gate_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    nightly = job(tmp_path, PUBLISHED, monkeypatch, told=told)
    asyncio.run(nightly.run())
    done = told.events[-1]
    assert (done.kind, done.level) == ("retrain_done", "info")
    assert done.text == "the night is done: 01234567 stays a challenger (KEEP)"
    assert done.details["reasons"] == ["it exits less"]
    assert told_of(nightly)["verdict"] == "KEEP"


def test_what_was_published_is_done_whatever_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    asyncio.run(job(tmp_path, f"{PUBLISHED}\nraise SystemExit('no space')", monkeypatch, told=told).run())
    assert told.events[-1].kind == "retrain_done"
    assert (told.events[-1].level, "failed: no space" in told.events[-1].text) == ("warning", True)
    assert Nights(tmp_path / "state").last_success() is not None


def test_what_is_to_be_tried_again_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was told to end, and one that finds the workspace taken, end with status 75."""
    seen = tmp_path / "seen"
    script = f"open({str(seen)!r}, 'a').write('x'); raise SystemExit(75 if len(open({str(seen)!r}).read()) < 3 else 0)"
    told = Told()
    nightly = job(tmp_path, script, monkeypatch, told=told, retry_s=(0.01, 0.01, 0.01))
    assert asyncio.run(nightly.run()) == 0
    assert seen.read_text() == "xxx"
    assert [kind for kind in told.kinds if kind != "retrain_started"] == ["retrain_put_off"] * 2 + ["retrain_done"]
    assert told_of(nightly)["failures_in_a_row"] == 0


def test_it_is_not_tried_again_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    nightly = job(tmp_path, "raise SystemExit(75)", monkeypatch, told=told, retry_s=(0.01,))
    assert asyncio.run(nightly.run()) == 75
    assert [kind for kind in told.kinds if kind != "retrain_started"] == ["retrain_put_off", "retrain_failed"]


def test_three_failures_in_a_row_are_an_alarm_also_over_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    for _ in range(4):
        asyncio.run(job(tmp_path, "raise SystemExit('no labels')", monkeypatch, told=told).run())
    alarms = [event for event in told.events if event.level == "alarm"]
    assert [(event.kind, event.details["in_a_row"]) for event in alarms] == [("nights_failing", 3)]
    assert "no labels" in alarms[0].text


def test_a_run_at_its_time_is_started_by_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler runs what is no coroutine in a thread, where a run cannot be begun."""

    async def scenario() -> None:
        nightly = job(tmp_path, "pass", monkeypatch)
        nightly._schedule()
        nightly._scheduler.start()
        nightly._scheduler.modify_job("retrain", next_run_time=datetime.now(UTC))
        try:
            await until(lambda: told_of(nightly)["outcome"] == "done")
        finally:
            await nightly.close()

    asyncio.run(scenario())


def test_the_output_is_in_a_file_and_what_programs_read_of_it_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys\n"
        'print(\'{"stage": "splits", "state": "running"}\')\n'
        'print(\'{"message": "12 rows were left out"}\')\n'
        'print(\'{"event": "pixels_kept", "level": "warning", "files": 3}\')\n'
        "print('cascade: no roads here', file=sys.stderr)\n"
        "raise SystemExit(1)"
    )
    with capture_logs() as logs:
        asyncio.run(job(tmp_path, script, monkeypatch).run())
    lines = {line["event"]: line for line in logs}
    assert (lines["night_stage"]["stage"], lines["night_note"]["text"]) == ("splits", "12 rows were left out")
    assert (lines["pixels_kept"]["log_level"], lines["pixels_kept"]["files"]) == ("warning", 3)
    failed = lines["retrain_failed"]
    assert failed["reason"] == "no roads here"
    assert len(Path(failed["output"]).read_text().splitlines()) == 4


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / NIGHTS).write_text("a file")
    told = Told()
    assert asyncio.run(job(tmp_path, "pass", monkeypatch, told=told).run()) == 126
    assert (told.kinds, "written" in told.events[0].text) == (["retrain_failed"], True)


def test_another_process_that_runs_the_nights_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state" / NIGHTS).mkdir(parents=True)
    with FileLock(tmp_path / "state" / NIGHTS / LOCK):
        assert asyncio.run(job(tmp_path, "pass", monkeypatch).run()) is None
    assert asyncio.run(job(tmp_path, "pass", monkeypatch).run()) == 0


class TestWhatAKilledProcessLeft:
    SLEEPS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"

    def left(self, token: str) -> subprocess.Popen[bytes]:
        """A process of a night, in a session of its own, as a killed miner leaves it; it hears no SIGTERM."""
        process = subprocess.Popen(
            [sys.executable, "-c", self.SLEEPS],
            env=os.environ | {VARIABLE: token},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def test_is_ended_and_the_night_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("miner.nights.job.GRACE_S", 0.3)
        nights = Nights(tmp_path / "state")
        home = nights.begin(datetime.now(UTC))
        token = NightRecord.read(home / "night.json").token
        told = Told()

        async def scenario() -> None:
            nightly = job(tmp_path, "pass", monkeypatch, told=told, enabled=True, cron="0 0 1 1 *")
            nightly.start()
            try:
                await until(lambda: "retrain_done" in told.kinds)
            finally:
                await nightly.close()

        with self.left(token) as process:
            asyncio.run(scenario())
            assert process.wait(120) == -9
        assert told.kinds == ["retrain_left", "retrain_started", "retrain_done"]
        assert told.events[0].details["processes"] == 1
        assert [night.outcome for night in nights.all()] == ["lost", "done"]

    def test_a_stranger_with_its_id_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = Nights(tmp_path / "state").begin(datetime.now(UTC))
        with self.left("of another night") as stranger:
            noted(home, process=mark_of(stranger.pid))
            asyncio.run(job(tmp_path, "pass", monkeypatch).end_left())
            assert stranger.poll() is None
            stranger.kill()

    def test_a_success_that_it_recorded_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = Nights(tmp_path / "state").begin(NIGHT)
        NightVerdict(at=NIGHT, bundle="b", verdict="PROMOTE").write(home / "verdict.json")
        asyncio.run(job(tmp_path, "pass", monkeypatch).end_left())
        [night] = Nights(tmp_path / "state").all()
        assert (night.outcome, Nights(tmp_path / "state").last_success()) == ("done", NIGHT)


def test_the_child_has_low_priority_and_a_session_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    script = f"import os; open({str(seen)!r}, 'w').write(f'{{os.nice(0)}} {{os.getsid(0)}}')"
    asyncio.run(job(tmp_path, script, monkeypatch, niceness=15).run())
    niceness, session = map(int, seen.read_text().split())
    assert niceness >= 15
    assert session != os.getsid(0)


def test_a_second_run_waits_for_no_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def twice() -> list[int | None]:
        nightly = job(tmp_path, "import time; time.sleep(0.5)", monkeypatch)
        return list(await asyncio.gather(nightly.run(), nightly.run()))

    assert sorted(asyncio.run(twice()), key=str) == [0, None]


@pytest.mark.parametrize("scheduled", [False, True])
def test_closing_ends_the_child_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, scheduled: bool
) -> None:
    """Also those that hear no SIGTERM, in a session of their own."""
    monkeypatch.setattr("miner.nights.night_process.GRACE_S", 0.5)
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, sys, time\n"
        "deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', deaf], start_new_session=True)\n"
        f"open({str(pids)!r} + '.part', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '.part', {str(pids)!r})\n"
        "time.sleep(60)\n"
    )

    async def close_while_running() -> list[int]:
        nightly = job(tmp_path, script, monkeypatch)
        if scheduled:
            nightly._schedule()
            nightly._scheduler.start()
            nightly._scheduler.modify_job("retrain", next_run_time=datetime.now(UTC))
        else:
            nightly.trigger()
        await until(pids.exists)
        await nightly.close()
        running = [int(pid) for pid in pids.read_text().split()]
        await until(lambda: not any(alive(pid) for pid in running))
        return running

    assert len(asyncio.run(close_while_running())) == 2


def test_a_stop_while_a_process_is_started_leaves_no_pipe_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = os.pipe()

    async def stopped(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        monkeypatch.setattr("asyncio.create_subprocess_exec", stopped)
        monkeypatch.setattr("os.pipe", lambda: pipe)
        with (
            closing(NightOutput(tmp_path / "output.log", DiskThread("nights"))) as output,
            pytest.raises(asyncio.CancelledError),
        ):
            await run_process(SLEEPS, new_token(), Bounds(0, None, 60.0), output)

    asyncio.run(run())
    for end in pipe:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_a_night_that_cannot_be_written_down_does_not_run_on(tmp_path: Path) -> None:
    """A disk that is full at that moment: nobody would wait for it, and it would keep the workspace for itself."""
    pids: list[int] = []

    async def full(mark: ProcessMark) -> None:
        pids.append(mark.pid)
        raise OSError(errno.ENOSPC, "No space left on device")

    async def start() -> None:
        output = NightOutput(tmp_path / "output.log", DiskThread("nights"))
        with closing(output), pytest.raises(OSError, match="No space left"):
            await run_process(SLEEPS, new_token(), Bounds(0, None, 60.0), output, full)
        await until(lambda: not alive(pids[0]))

    asyncio.run(start())
    assert len(pids) == 1


def test_a_night_whose_disk_hangs_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    async def hangs(_: ProcessMark) -> None:
        await asyncio.Event().wait()

    async def run() -> Ended:
        with closing(NightOutput(tmp_path / "output.log", DiskThread("nights"))) as output:
            async with asyncio.timeout(60):
                return await run_process(SLEEPS, new_token(), Bounds(0, None, 0.2), output, hangs)

    assert asyncio.run(run()).timed_out


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nightly = job(tmp_path, "import time; time.sleep(60)", monkeypatch, timeout_h=0.5 / 3600)
    status = asyncio.run(nightly.run())
    assert status is not None
    assert status < 0


def test_the_child_runs_the_pipeline_on_the_miners_store(tmp_path: Path) -> None:
    settings = RetrainSettings(data=tmp_path / "roads", preset="tiny")
    nightly = NightlyJob(settings, store=tmp_path / "store", state=tmp_path, now=lambda: NIGHT)
    command = nightly.command()
    assert command[1:4] == ["-m", "miner.cli", "retrain"]
    assert str(tmp_path / "store") in command
    assert str(tmp_path / "roads") in command


class TestRecalibration:
    SPEC = EngineSpec(backend="tensorrt", precision="bf16", device="cuda")

    def test_asks_the_command_line_for_a_bundle_of_this_machine(self, tmp_path: Path) -> None:
        settings = RetrainSettings(data=tmp_path / "roads", workspace=tmp_path / "workspace")
        nightly = NightlyJob(settings, store=tmp_path / "store", state=tmp_path, now=lambda: NIGHT)
        assert asyncio.run(nightly.recalibrate("0123456789abcdef", self.SPEC)) is False
        # The options were understood: what is wrong is that there is no such bundle.
        said = (tmp_path / NIGHTS / "recalibration.log").read_text()
        assert "no bundle is called '0123456789abcdef'" in said
        command = nightly.compile_command("0123456789abcdef", self.SPEC)
        assert "--activate" in command
        assert command[command.index("--precision") + 1] == "bf16"

    def test_does_not_wait_for_a_retraining(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> tuple[bool, int | None]:
            nightly = job(tmp_path, "import time; time.sleep(0.5)", monkeypatch)
            running = asyncio.create_task(nightly.run())
            await until(nightly._running.locked)
            return await nightly.recalibrate("0123456789abcdef", self.SPEC), await running

        assert asyncio.run(scenario()) == (False, 0)

    def test_a_night_that_comes_meanwhile_waits_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> list[str]:
            order = tmp_path / "order"
            write = f"open({str(order)!r}, 'a').write"
            nightly = job(tmp_path, f"{write}('night ')", monkeypatch)
            script = f"import time; time.sleep(0.5); {write}('recalibrated ')"
            monkeypatch.setattr(nightly, "compile_command", lambda *_: [sys.executable, "-c", script])
            recalibrating = asyncio.create_task(nightly.recalibrate("0123456789abcdef", self.SPEC))
            await until(nightly._recalibrating.locked)
            assert await nightly.run() == 0
            assert await recalibrating is True
            return order.read_text().split()

        assert asyncio.run(scenario()) == ["recalibrated", "night"]

    def test_is_ended_with_all_it_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> None:
            pid = tmp_path / "pid"
            nightly = job(tmp_path, "", monkeypatch)
            script = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
            monkeypatch.setattr(nightly, "compile_command", lambda *_: [sys.executable, "-c", script])
            recalibrating = asyncio.create_task(nightly.recalibrate("0123456789abcdef", self.SPEC))
            await until(lambda: pid.exists() and bool(pid.read_text()))
            recalibrating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await recalibrating
            await until(lambda: not alive(int(pid.read_text())))

        asyncio.run(scenario())

    def test_tells_whether_it_was_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nightly = job(tmp_path, "", monkeypatch)
        for status, done in ((0, True), (1, False)):
            script = f"raise SystemExit({status})"
            monkeypatch.setattr(nightly, "compile_command", lambda *_, s=script: [sys.executable, "-c", s])
            assert asyncio.run(nightly.recalibrate("0123456789abcdef", self.SPEC)) is done


def test_the_night_table_reaches_the_child(tmp_path: Path) -> None:
    night = {"train_supervised": {"epochs": 3}, "model.backbone": {"kind": "random", "layers": 2}}
    settings = RetrainSettings(data=tmp_path, preset="tiny", workspace=tmp_path / "w")
    nightly = NightlyJob(settings, night=night, store=tmp_path / "s", state=tmp_path, now=lambda: NIGHT)
    given = nightly.command()
    changes = parsed_changes([given[place + 1] for place, flag in enumerate(given) if flag == "--set"])
    config = load_config("tiny", None, changes)
    assert config.train_supervised.epochs == 3
    assert config.model.backbone == RandomBackbone(layers=2)
    asyncio.run(nightly.check())


@pytest.mark.parametrize(
    ("night", "preset", "said"),
    [
        ({"train_supervised": {"epoch": 3}}, "tiny", r"train_supervised\.epoch: Extra inputs"),
        ({"calibrate_scrc": {"alpha": 2.0}}, "tiny", r"calibrate_scrc\.alpha: Input should be less than"),
        ({"nothing": 1}, "tiny", "nothing: Extra inputs"),
        ({}, "huge", "no preset is called 'huge'"),
        ({"engine": {"backend": "tensort"}}, "tiny", "no backend is called 'tensort'"),
        ({"engine": {"backend": "openvino", "precision": "int8"}}, "tiny", "no engine computes so"),
    ],
)
def test_a_night_that_could_not_run_is_found_when_the_miner_starts(
    tmp_path: Path, night: dict[str, object], preset: str, said: str
) -> None:
    settings = RetrainSettings(data=tmp_path, preset=preset)
    nightly = NightlyJob(settings, night=night, store=tmp_path / "s", state=tmp_path, now=lambda: NIGHT)
    with pytest.raises(SettingsError, match=said) as error:
        asyncio.run(nightly.check())
    assert error.value.exit_status == 2


def test_a_night_table_without_data_is_a_mistake(tmp_path: Path) -> None:
    nightly = NightlyJob(RetrainSettings(), night={"seed": 3}, store=tmp_path / "s", state=tmp_path, now=lambda: NIGHT)
    with pytest.raises(SettingsError, match=r"set retrain\.data"):
        asyncio.run(nightly.check())


def test_a_check_that_takes_too_long_keeps_no_miner_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly = NightlyJob(RetrainSettings(data=tmp_path), store=tmp_path / "s", state=tmp_path, now=lambda: NIGHT)
    monkeypatch.setattr(nightly, "command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr("miner.nights.job.CHECK_S", 0.2)
    with capture_logs() as logs:
        asyncio.run(nightly.check())
    assert [entry["event"] for entry in logs] == ["night_settings_not_checked"]


def test_another_schedule_holds_without_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "data").mkdir()
        off = RetrainSettings(data=tmp_path / "data", preset="tiny")
        nightly = NightlyJob(off, store=tmp_path, state=tmp_path, now=lambda: NIGHT)
        try:
            on = off.model_copy(update={"enabled": True, "cron": "0 4 * * *"})
            await nightly.change(on, {"seed": 7})
            [due] = [job.next_run_time for job in nightly._scheduler.get_jobs()]
            assert (due.hour, due.minute) == (4, 0)
            assert "seed=7" in nightly.command()
            with pytest.raises(SettingsError, match="train_supervised"):
                await nightly.change(off, {"train_supervised": {"epoch": 20}})
            assert "seed=7" in nightly.command()
            await nightly.change(off, {})
            assert nightly._scheduler.get_jobs() == []
        finally:
            await nightly.close()

    asyncio.run(scenario())


class TestTheHotkeyOfModelCards:
    HOTKEY = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX"

    def command(self, tmp_path: Path, night: dict[str, object]) -> list[str]:
        settings = RetrainSettings(data=tmp_path)
        nightly = NightlyJob(
            settings, night=night, store=tmp_path, state=tmp_path, now=lambda: NIGHT, hotkey=self.HOTKEY
        )
        return nightly.command()

    def config_of(self, command: list[str]) -> str | None:
        changes = [word for before, word in pairwise(command) if before == "--set"]
        return load_config("tiny", None, parsed_changes(changes)).model_card.submitted_by

    def test_is_the_miners_own(self, tmp_path: Path) -> None:
        assert self.config_of(self.command(tmp_path, {})) == self.HOTKEY
        assert self.config_of(self.command(tmp_path, {"model_card": {"name": "mine"}})) == self.HOTKEY

    def test_is_the_one_of_the_night_where_that_names_one(self, tmp_path: Path) -> None:
        other = self.HOTKEY.replace("5F", "5G")
        assert self.config_of(self.command(tmp_path, {"model_card": {"submitted_by": other}})) == other
