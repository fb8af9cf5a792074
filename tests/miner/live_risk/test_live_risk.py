"""The watch in a running miner: audits are drawn after the answer, alarms tighten, and hostile streams move little."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from engines.errors import RemoteError
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot
from engines.store.bundle import Provenance
from engines.store.store import Store
from miner.answering.cascade import Cascade
from miner.answering.deadline import TimeBudget
from miner.answering.record import RequestRecord, SeenImage
from miner.answering.request import Request
from miner.answering.settings import EngineSettings
from miner.live_risk.audit_events import Drawn
from miner.live_risk.auditor import Auditor
from miner.live_risk.certificate_watch import CertificateWatch, certificate_id
from miner.live_risk.hourly import COLUMNS
from miner.live_risk.inbox import AuditLabel, Inbox
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.settings import LiveRiskSettings, Reaction
from miner.live_risk.summary import Summary
from stage1.decisions import Action
from stage1.errors import SettingsError
from stage1.monitor.audit import drawn_number
from stage1.monitor.settings import AdaptationSettings, AuditShares, SequentialSettings
from stage2_bridge.bridge import OFF, Bridge
from stage2_bridge.client import Outcome, Stage2Error, Verdict
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.protection.settings import BudgetSettings
from stage2_bridge.servers.member import Checked, Member
from stage2_bridge.servers.preferred import PreferredServers

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL = LiveRiskSettings(audits=True, shares=AuditShares(exit0=1.0, exit1=1.0))
SECONDED = ALL.model_copy(update={"second_server": "second"})


@dataclass
class Clock:
    """Wall-clock time of a test."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Told:
    """What was told."""

    events: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, kind: str, level: str, text: str, details: Any) -> None:
        self.events.append((kind, level, text, dict(details)))


class Expert:
    """A Stage-2 that says what it is told to say."""

    def __init__(self, probability: float, name: str = "expert", error: Exception | None = None) -> None:
        self.probability, self.name, self.error = probability, name, error
        self.asked = 0

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.probability

    async def close(self) -> None:
        pass


@pytest.fixture
def bundle(tmp_path: Path, bundle_files: Path, provenance: Provenance) -> LiveBundle:
    store = Store(tmp_path / "store")
    return load_bundle(store.path(store.publish(bundle_files, provenance)), threads=1)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def seen(bundle: LiveBundle, number: int, exit_label: int = 0, **changes: Any) -> SeenImage:
    """An image of its own, in a ten minutes of its own, that exits."""
    record = RequestRecord(
        request_id=f"r{number}",
        at=NOON + timedelta(minutes=11 * number),
        hotkey="validator",
        result="answered",
        answer=0.1,
        bundle=bundle.bundle_id,
        generation=1,
        image_sha256="a" * 64,
        action=Action.EXIT,
        prediction_set=(exit_label,),
        likelier_label=exit_label,
        roadwork_score=-3.0,
        select_score=2.0,
        stage1_probability=0.05,
        total_ms=1.0,
    )
    picture = changes.pop("picture", number)
    return SeenImage(record.model_copy(update=changes), b"bytes", pixels(picture), bundle.params)


def watched(directory: Path, bundle: LiveBundle, settings: LiveRiskSettings = ALL, **more: Any) -> LiveRisk:
    risk = LiveRisk(directory, settings, now=more.pop("now", Clock()), **more)
    risk.live(bundle)
    # While its thread writes the status is that of before.
    risk.queue.disk.submit(lambda: None).result()
    return risk


def took(risk: LiveRisk, *images: SeenImage) -> None:
    """What the thread does with them."""
    for image in images:
        risk.on_answer(image.record)
        risk.take(image)


def book(risk: LiveRisk, bundle: LiveBundle) -> Any:
    return risk._watches[certificate_id(bundle.params)].audits.book


def misses(risk: LiveRisk, bundle: LiveBundle, number: int, first: int = 1) -> None:
    """So many audited exits with 0 that a person says show roadwork."""
    for one in range(first, first + number):
        took(risk, seen(bundle, one))
        risk.said(certificate_id(bundle.params), book(risk, bundle).next_number - 1, "expert", 0.9)
        risk.labelled(certificate_id(bundle.params), book(risk, bundle).next_number - 1, 1, "person")


def test_the_share_that_is_drawn_is_the_share_that_is_written(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle, LiveRiskSettings(audits=True))
    took(risk, *(seen(bundle, i, exit_label=0) for i in range(300)))
    drawn = [one.drawn for one in book(risk, bundle).waiting.values()]
    assert 60 < len(drawn) < 120
    assert {one.share for one in drawn} == {0.3}
    secret = (tmp_path / "secret.key").read_bytes()
    for one in drawn:
        assert one.drawn == drawn_number(secret, f"{one.at.isoformat()}/{one.request_id}/{one.image_sha256}") < 0.3
    assert (tmp_path / "secret.key").stat().st_mode & 0o077 == 0


def test_nothing_is_kept_of_pictures_where_audits_are_off(tmp_path: Path, bundle: LiveBundle) -> None:
    """And audits are off unless they are asked for."""
    risk = watched(tmp_path, bundle, LiveRiskSettings())
    took(risk, *(seen(bundle, i) for i in range(50)))
    assert book(risk, bundle).waiting == {}
    assert list(tmp_path.rglob("images/*")) == []
    assert risk._watches[certificate_id(bundle.params)].scores.seen == 50
    risk.close()


@pytest.mark.parametrize(
    ("reaction", "zeros", "exits"),
    [("observe", True, True), ("tighten", False, True), ("defer_all", False, False), ("rollback", False, True)],
)
def test_an_alarm_is_told_and_reacted_to(
    tmp_path: Path, bundle: LiveBundle, reaction: Reaction, zeros: bool, exits: bool
) -> None:
    told = Told()
    risk = watched(tmp_path, bundle, ALL.model_copy(update={"reaction": reaction, "adapt": False}), tell=told)
    assert risk.policy(bundle).rule == bundle.params.rule
    misses(risk, bundle, 20)
    status = risk.status()
    assert status["level"] == "alarm"
    assert (status["exits_as_0"], status["exits"]) == (zeros, exits)
    rule = risk.policy(bundle).rule
    assert (rule is not None) == exits
    if rule is not None and bundle.params.rule is not None:
        assert rule.t1 == bundle.params.rule.t1
        assert (rule.t0 == bundle.params.rule.t0) == zeros
    alarms = [details["reasons"] for _, level, _, details in told.events if level == "alarm"]
    assert alarms == [["violated"], ["changed", "violated"]], "one for each test, and each once"
    assert "above" in status["sentence"]
    assert Summary.read(tmp_path / "live_risk.json").certificates[status["certificate"]]["level"] == "alarm"


def test_the_threshold_follows_the_misses_before_any_alarm(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle)
    assert bundle.params.rule is not None
    misses(risk, bundle, 1)
    status = risk.status()
    assert status["level"] in {"ok", "watch"}
    assert 0 < status["theta"] <= 0.05
    assert status["t0_used"] == pytest.approx(bundle.params.rule.t0 - status["theta"])
    assert "Implied by what was certified" in status["statement"]


def test_who_reacts_to_an_alarm_is_told_of_it_while_another_thread_writes(tmp_path: Path, bundle: LiveBundle) -> None:
    """Else a store that is told by the status never knows of it: after a rollback that is of another bundle."""
    risk, told = watched(tmp_path, bundle), list[dict[str, Any]]()
    busy, done = threading.Event(), threading.Event()

    def write() -> None:
        with risk._lock:
            busy.set()
            done.wait(60.0)

    def react() -> None:
        writer = threading.Thread(target=write)
        writer.start()
        assert busy.wait(60.0)
        told.append(risk.status())
        done.set()
        writer.join()

    risk.react = react
    misses(risk, bundle, 20)
    risk.close()
    assert [status["level"] for status in told] == ["alarm"]
    assert told[0]["alarms"]


def test_nothing_exits_until_the_disk_has_told_what_came_of_a_certificate(
    tmp_path: Path, bundle: LiveBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that comes before the watch waits for no disk, and may come after an alarm."""
    answers = threading.Event()

    def hangs(*args: Any, **named: Any) -> CertificateWatch:
        answers.wait(60)
        return CertificateWatch(*args, **named)

    monkeypatch.setattr("miner.live_risk.live_risk.CertificateWatch", hangs)
    risk = LiveRisk(tmp_path, ALL, now=Clock())
    assert bundle.params.rule is not None
    assert [risk.policy(bundle).rule for _ in range(3)] == [None] * 3
    answers.set()
    risk.close()
    assert risk.policy(bundle).rule == bundle.params.rule


def test_an_alarm_and_the_threshold_outlive_a_restart(tmp_path: Path, bundle: LiveBundle) -> None:
    first = watched(tmp_path, bundle)
    misses(first, bundle, 20)
    before = book(first, bundle).state
    first.close()
    again = watched(tmp_path, bundle)
    assert book(again, bundle).state.to_json() == before.to_json()
    rule = again.policy(bundle).rule
    assert rule is not None
    assert rule.t0 < -1e30
    assert again.status()["level"] == "alarm"


def test_labels_of_the_inbox_are_taken_over_once(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle)
    took(risk, seen(bundle, 1))
    name = certificate_id(bundle.params)
    risk.said(name, 1, "expert", 0.9)
    Inbox(tmp_path).put([AuditLabel(certificate=name, number=1, label=1)])
    (tmp_path / "inbox" / "bad.jsonl").write_text("{}")
    risk.tick()
    risk.tick()
    assert book(risk, bundle).state.losses == 1
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["bad.jsonl.unreadable"]


def test_labels_of_a_certificate_that_is_not_live_are_not_lost(tmp_path: Path, bundle: LiveBundle) -> None:
    """They come while the miner starts, or of a bundle that was swapped out while a person looked at its pictures."""
    risk, name = watched(tmp_path, bundle), certificate_id(bundle.params)
    took(risk, seen(bundle, 1), seen(bundle, 2))
    for number in (1, 2):
        risk.said(name, number, "expert", 0.9)
    risk.close()
    Inbox(tmp_path).put([AuditLabel(certificate=name, number=number, label=1) for number in (1, 2)])
    Inbox(tmp_path).put([AuditLabel(certificate="0" * 16, number=1, label=1)])
    starting = LiveRisk(tmp_path, ALL, now=Clock())
    starting.tick()
    assert not list((tmp_path / "inbox").iterdir())
    assert starting.lost.counts == {"label_without_audit": 1}
    starting.live(bundle)
    assert book(starting, bundle).state.losses == 2
    starting.close()


def test_a_watch_that_begins_while_its_labels_are_taken_has_them(
    tmp_path: Path, bundle: LiveBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    risk, name = watched(tmp_path, bundle), certificate_id(bundle.params)
    took(risk, seen(bundle, 1))
    risk.said(name, 1, "expert", 0.9)
    risk.close()
    Inbox(tmp_path).put([AuditLabel(certificate=name, number=1, label=1)])
    starting = LiveRisk(tmp_path, ALL, now=Clock())
    begins, before = threading.Thread(target=starting.live, args=(bundle,)), starting.labelled

    def between(*given: Any) -> None:
        before(*given)
        begins.start()
        begins.join(0.1)

    monkeypatch.setattr(starting, "labelled", between)
    starting.tick()
    begins.join()
    assert book(starting, bundle).state.losses == 1
    starting.close()


def test_a_backlog_is_an_alert(tmp_path: Path, bundle: LiveBundle) -> None:
    clock, told = Clock(), Told()
    risk = watched(tmp_path, bundle, now=clock, tell=told)
    took(risk, seen(bundle, 0))
    clock.at = NOON + timedelta(hours=71)
    risk.tick()
    assert told.events == []
    clock.at = NOON + timedelta(hours=73)
    risk.tick()
    [(kind, level, text, _)] = told.events
    assert (kind, level) == ("live_risk", "warning")
    assert "waited 73 hours" in text


@pytest.mark.parametrize("kind", ["one hard image", "replays of many", "one place floods"])
def test_a_hostile_stream_moves_no_more_than_its_places_are_worth(
    tmp_path: Path, bundle: LiveBundle, kind: str
) -> None:
    """A thousand images that are all misses: theta and the alarms move by one step a place."""
    risk, rng = watched(tmp_path, bundle), np.random.default_rng(0)
    known = list(range(5))
    for i in range(1000):
        hotkey = f"attacker {i % 50}"
        if kind == "one hard image":
            picture, at, places = 7, NOON + timedelta(seconds=20 * i), 1
        elif kind == "replays of many":
            picture, at, places = known[int(rng.integers(5))], NOON + timedelta(seconds=20 * i), 5
        else:
            picture, at, hotkey, places = 1000 + i, NOON + timedelta(seconds=0.5 * i), "attacker", 1
        took(risk, seen(bundle, i, picture=picture, at=at, hotkey=hotkey))
    for number in list(book(risk, bundle).waiting):
        risk.said(certificate_id(bundle.params), number, "expert", 0.9)
        risk.labelled(certificate_id(bundle.params), number, 1, "person")
    state = book(risk, bundle).state
    assert state.audits == places
    assert state.theta <= places * 0.05
    assert risk._watches[certificate_id(bundle.params)].scores.seen == places
    if places == 1:
        assert state.alarms == {}


def test_memory_and_disk_are_bounded(tmp_path: Path, bundle: LiveBundle) -> None:
    settings = ALL.model_copy(update={"most_waiting": 20})
    risk = watched(tmp_path, bundle, settings)
    took(risk, *(seen(bundle, i) for i in range(60)))
    assert len(book(risk, bundle).waiting) == 20
    assert risk.status()["failed"]["store_full"] == 40
    assert len(list(tmp_path.rglob("images/*"))) == 20


def test_hours_are_rows_that_a_program_reads(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle)
    took(risk, *(seen(bundle, i, exit_label=i % 2) for i in range(12)))
    risk.close()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "metrics_live.csv").read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert sum(int(row["requests"]) for row in rows) == 12
    assert sum(int(row["exited_1"]) for row in rows) == 6
    assert sum(int(row["audits_drawn"]) for row in rows) == 12
    assert {row["level"] for row in rows} == {"ok"}
    assert all(row["score_p50"] == "-3.0" for row in rows)


def test_an_hour_is_written_when_it_is_over_and_bundles_that_alternate_make_no_rows(
    tmp_path: Path, bundle: LiveBundle
) -> None:
    clock = Clock()
    risk = watched(tmp_path, bundle, LiveRiskSettings(), now=clock)
    for number in range(100):
        image = seen(bundle, number, at=NOON + timedelta(seconds=number))
        risk.on_answer(image.record.model_copy(update={"bundle": f"bundle {number % 2}"}))
    risk.tick()
    assert not (tmp_path / "metrics_live.csv").exists()
    clock.at = NOON + timedelta(minutes=62)
    risk.tick()
    rows = list(csv.DictReader((tmp_path / "metrics_live.csv").read_text().splitlines()))
    assert [(row["bundle"], row["requests"]) for row in rows] == [("bundle 0", "50"), ("bundle 1", "50")]
    risk.close()


def test_a_disk_that_is_full_costs_no_answer(tmp_path: Path, bundle: LiveBundle, monkeypatch: Any) -> None:
    risk = watched(tmp_path, bundle)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("miner.live_risk.audit_log.write_atomic", full)
    risk.queue._queue.append(seen(bundle, 1))
    risk.queue.hand_over()
    risk.queue.disk.submit(lambda: None).result()
    assert risk.status()["failed"] == {"OSError": 1}
    assert book(risk, bundle).waiting == {}


def test_stage_2_is_asked_about_the_oldest_and_never_where_requests_wait(tmp_path: Path, bundle: LiveBundle) -> None:
    async def story() -> None:
        expert = Expert(0.1)
        bridge = Bridge(expert, max_in_flight=2, max_waiting=4, clock=time.monotonic)
        slot = BundleSlot()
        slot.swap(bundle)
        risk = watched(tmp_path, bundle, ALL.model_copy(update={"audits_per_hour": 3}))
        auditor = Auditor(risk, bridge, slot, clock=time.monotonic)
        assert not await auditor.ask_one()
        took(risk, *(seen(bundle, i) for i in range(5)))
        bridge.change(None, max_in_flight=2, max_waiting=4, cache=OFF)
        assert not await auditor.ask_one(), "there is nobody to ask"
        assert bridge.stats.outcomes == {}
        bridge.change(expert, max_in_flight=2, max_waiting=4, cache=OFF)
        bridge._slots._taken = 1
        assert not await auditor.ask_one(), "half of the hand-offs are under way"
        bridge._slots._taken = 0
        asked = [await auditor.ask_one() for _ in range(5)]
        assert asked == [True, True, True, False, False], "so many an hour"
        assert (expert.asked, book(risk, bundle).state.audits) == (3, 3)
        risk.close()

    asyncio.run(story())


def test_an_audit_waits_while_the_budget_keeps_anything_from_a_hand_off_and_pays_for_the_second_model(
    tmp_path: Path, bundle: LiveBundle
) -> None:
    async def story() -> None:
        now = 0.0

        def clock() -> float:
            return now

        expert, second = Expert(0.9), Expert(0.8, "second")
        settings = BudgetSettings(calls=40, per="hour", burst=0.5)
        budget = Budget(settings, 1.0, StateFile(tmp_path / "budget"), clock=clock, now=clock)
        members = [
            Member(cast(Checked, one), Breaker(time.monotonic), 4, equal=one is second, cost=Cost())
            for one in (expert, second)
        ]
        bridge = Bridge(
            PreferredServers(members[:1], time.monotonic, budget=budget), max_in_flight=4, clock=time.monotonic
        )
        risk = watched(tmp_path / "risk", bundle, SECONDED)
        auditor = Auditor(risk, bridge, BundleSlot(), clock=time.monotonic)
        took(risk, seen(bundle, 1))
        for _ in range(60):
            budget.claim(0.5).reserve(Cost())
        assert budget.status.share < 1
        assert not await auditor.ask_one()
        now = 3600.0 * 3
        assert budget.status.share == 1
        spent = budget.status.spent
        assert await auditor.ask_one()
        bridge.change(
            PreferredServers(members, time.monotonic, budget=budget), max_in_flight=4, max_waiting=0, cache=OFF
        )
        assert await auditor.ask_one()
        assert (expert.asked, second.asked, budget.status.spent - spent) == (1, 1, 2)
        risk.close()

    asyncio.run(story())


def test_a_second_model_makes_a_miss_of_a_flag(tmp_path: Path, bundle: LiveBundle) -> None:
    numbers = count()

    async def story(second: Expert, means: Mapping[str, float] | None = None, name: str = "second") -> tuple[int, int]:
        def calibrated(name: str, score: float) -> float:
            return (means or {}).get(name, score)

        members = [Member(cast(Checked, one), Breaker(time.monotonic), 4) for one in (Expert(0.9), second)]
        servers = PreferredServers(members, time.monotonic)
        bridge = Bridge(servers, max_in_flight=4, calibrated=calibrated, clock=time.monotonic)
        directory = tmp_path / str(next(numbers))
        risk = watched(directory, bundle, SECONDED.model_copy(update={"second_server": name}))
        auditor = Auditor(risk, bridge, BundleSlot(), clock=time.monotonic)
        took(risk, seen(bundle, 1))
        for _ in range(4):
            await auditor.ask_one()
        risk.close()
        return book(risk, bundle).state.losses, second.asked

    assert asyncio.run(story(Expert(0.8, "second"))) == (1, 1)
    assert asyncio.run(story(Expert(0.2, "second"))) == (0, 1), "where they differ a person decides"
    assert asyncio.run(story(Expert(0.8, "second"), name="expert")) == (0, 0), (
        "the same model does not agree with itself"
    )
    assert asyncio.run(story(Expert(0.8, "second"), name="gone")) == (0, 0)
    assert asyncio.run(story(Expert(0.8, "second", Stage2Error("no")))) == (0, 3)
    assert asyncio.run(story(Expert(0.8, "second", RemoteError("nobody there", passing=True)))) == (0, 3)
    assert asyncio.run(story(Expert(math.nan, "second"))) == (0, 3), "what is no probability says nothing"
    means = {"second": 0.3}
    assert asyncio.run(story(Expert(0.8, "second"), means)) == (0, 1), (
        "its score is calibrated, as that of the first is"
    )


def test_answers_are_the_same_with_and_without_the_watch(tmp_path: Path, bundle: LiveBundle, encoded: Any) -> None:
    """Until an audit has told something: byte by byte."""
    import base64  # noqa: PLC0415

    rng = np.random.default_rng(5)
    images = [
        base64.b64encode(encoded(Image.new("RGB", (32, 32), tuple(rng.integers(0, 256, 3).tolist())))).decode()
        for _ in range(30)
    ]

    async def answers(risk: LiveRisk | None) -> list[float]:
        slot, batcher = BundleSlot(), Batcher(BatchSettings())
        slot.swap(replace(bundle))
        cascade = Cascade(
            slot,
            batcher,
            Bridge(None, max_in_flight=1, clock=time.monotonic),
            observers=() if risk is None else (risk,),
            image_observers=() if risk is None else (risk,),
            policy=None if risk is None else risk.policy,
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
        )
        budget = TimeBudget(deadline_s=1e9, margin_s=0.0, reserve_s=0.05)
        found = [
            (
                await cascade.answer(
                    Request(f"r{i}", f"hotkey {i}", None, image, budget.deadline(time.monotonic(), 20.0))
                )
            ).probability
            for i, image in enumerate(images)
        ]
        await asyncio.sleep(0.05)
        if risk is not None:
            await asyncio.to_thread(risk.close)
        await cascade._bridge.close()
        batcher.close()
        return found

    risk = watched(tmp_path / "risk", bundle, ALL)
    assert json.dumps(asyncio.run(answers(risk))) == json.dumps(asyncio.run(answers(None)))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "risk" / "metrics_live.csv").read_text())))
    assert sum(int(row["requests"]) for row in rows) == 30
    exits = sum(int(row["exited_0"]) + int(row["exited_1"]) for row in rows)
    assert 0 < len(book(risk, bundle).waiting) <= exits


def test_an_audit_is_worth_little_to_a_budget(tmp_path: Path, bundle: LiveBundle) -> None:
    """It says how sure Stage-1 is, so that requests come first; what was not sent is not counted as asked."""
    asked: list[dict[str, Any]] = []

    class Refusing(Bridge):
        async def ask(self, content: bytes, deadline: float, **more: Any) -> Verdict:  # noqa: ARG002
            asked.append(more)
            return Verdict(Outcome.BUSY, None, 0.0, "")

    async def story() -> None:
        bridge = Refusing(Expert(0.1), max_in_flight=4, clock=time.monotonic)
        risk = watched(tmp_path, bundle, ALL.model_copy(update={"audits_per_hour": 1}))
        auditor = Auditor(risk, bridge, BundleSlot(), clock=time.monotonic)
        took(risk, seen(bundle, 1))
        assert [await auditor.ask_one() for _ in range(3)] == [False] * 3
        risk.close()

    asyncio.run(story())
    assert [one["probability"] for one in asked] == [0.05] * 3


def test_an_alarm_that_is_on_the_disk_tightens_though_nothing_else_can_be_written(
    tmp_path: Path, bundle: LiveBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    reacted: list[int] = []
    risk = watched(tmp_path, bundle, react=lambda: reacted.append(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    # A line still fits into the last block of a file, another file does not fit.
    monkeypatch.setattr("miner.live_risk.audit_log.write_atomic", full)
    monkeypatch.setattr("stage1.artifacts.write_atomic", full)
    for number in range(1, 21):
        drawn = audit(bundle, number)
        with pytest.raises(OSError, match="No space"):
            risk._watches[certificate_id(bundle.params)].audits.add(drawn)
        for done in (
            lambda number=number: risk.said(certificate_id(bundle.params), number, "expert", 0.9),
            lambda number=number: risk.labelled(certificate_id(bundle.params), number, 1, "person"),
        ):
            with contextlib.suppress(OSError):
                done()
    assert book(risk, bundle).state.alarms
    rule = risk.policy(bundle).rule
    assert rule is not None
    assert rule.t0 < -1e30
    with contextlib.suppress(OSError):
        risk.tick()
    assert reacted == [1]


def audit(bundle: LiveBundle, number: int) -> Drawn:
    """A draw of an exit with 0, without a picture."""
    return Drawn(
        number=number,
        at=NOON + timedelta(minutes=number),
        request_id=f"r{number}",
        hotkey="validator",
        image_sha256="a" * 64,
        picture=None,
        site=number,
        exit_label=0,
        score=-3.0,
        select_score=2.0,
        probability=0.05,
        share=1.0,
        drawn=0.5,
        label_share=0.0,
        label_drawn=False,
        theta=0.0,
        bundle=bundle.bundle_id,
    )


@pytest.mark.parametrize("broken", ["damaged", "unwritable"])
def test_an_alarm_holds_though_its_audits_cannot_be_taken_up(
    tmp_path: Path, bundle: LiveBundle, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = watched(tmp_path, bundle)
    misses(first, bundle, 20)
    first.close()
    log = tmp_path / "streams" / certificate_id(bundle.params) / "audits.jsonl"
    settings = ALL
    if broken == "damaged":
        log.write_bytes(b'{"kind":"drawn"}\n' + log.read_bytes())
    else:
        # Other terms are an event, for which the disk has no room.
        settings = ALL.model_copy(update={"shares": AuditShares(exit0=0.5, exit1=0.5)})
        monkeypatch.setattr("miner.live_risk.audit_log.append_line", full_disk)
    again = LiveRisk(tmp_path, settings, now=Clock())
    again.live(bundle)
    rule = again.policy(bundle).rule
    assert rule is not None
    assert rule.t0 < -1e30
    assert again.status()["failed"] == {"not_watched": 1}
    assert "bundle" not in again.status(), "nothing is said of a certificate that is not watched"
    again.close()


@pytest.mark.parametrize(("reaction", "adapt", "exits"), [("tighten", False, False), ("observe", False, True)])
def test_nothing_exits_by_a_certificate_of_which_nothing_can_be_read(
    tmp_path: Path, bundle: LiveBundle, reaction: Reaction, adapt: bool, exits: bool
) -> None:
    """There may have been an alarm; only where an alarm would change nothing all is as before."""
    home = tmp_path / "streams" / certificate_id(bundle.params)
    home.mkdir(parents=True)
    (home / "audits.jsonl").write_text('{"kind":"drawn"}\n')
    (home / "monitor.json").write_text("{")
    risk = LiveRisk(tmp_path, ALL.model_copy(update={"reaction": reaction, "adapt": adapt}), now=Clock())
    risk.live(bundle)
    assert risk.status()["failed"] == {"not_watched": 1}
    assert (risk.policy(bundle).rule is not None) == exits
    risk.close()


def test_a_full_disk_does_not_keep_a_new_certificate_from_its_exits(
    tmp_path: Path, bundle: LiveBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "streams" / certificate_id(bundle.params)
    home.mkdir(parents=True)
    (home / "audits.jsonl").touch()
    monkeypatch.setattr("miner.live_risk.live_risk.CertificateWatch", full_disk)
    risk = LiveRisk(tmp_path, ALL, now=Clock())
    risk.live(bundle)
    assert risk.status()["failed"] == {"not_watched": 1}
    assert risk.policy(bundle).rule == bundle.params.rule
    risk.close()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_status_does_not_wait_for_the_disk(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle)
    before = risk.status()
    held, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with risk._lock:
            held.set()
            go_on.wait(120)

    thread = threading.Thread(target=slow)
    thread.start()
    assert held.wait(60)
    asked: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: asked.append(risk.status()))
    reader.start()
    reader.join(60)
    waited = reader.is_alive()
    go_on.set()
    thread.join()
    reader.join()
    assert not waited
    assert asked == [before]
    risk.close()


def test_without_a_stage_2_every_audit_waits_for_a_person(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle)
    took(risk, seen(bundle, 1), seen(bundle, 2))
    assert risk.status()["for_people"] == 0
    risk.has_stage2 = lambda: False
    assert risk.status()["for_people"] == 2
    risk.close()


def test_the_auditor_asks_a_server_that_came_while_the_miner_ran(tmp_path: Path, bundle: LiveBundle) -> None:
    async def story() -> None:
        bridge = Bridge(None, max_in_flight=2, clock=time.monotonic)
        slot = BundleSlot()
        slot.swap(bundle)
        risk = watched(tmp_path, bundle)
        auditor = Auditor(risk, bridge, slot, clock=time.monotonic)
        took(risk, seen(bundle, 1))
        assert not await auditor.ask_one()
        assert bridge.stats.outcomes == {}, "an audit that nobody can be asked about is no hand-off"
        expert = Expert(0.1)
        bridge.change(expert, max_in_flight=2, max_waiting=0, cache=OFF)
        assert await auditor.ask_one()
        assert expert.asked == 1
        risk.close()

    asyncio.run(story())


def test_a_running_watch_takes_another_reaction_over_and_keeps_what_it_counts_by(
    tmp_path: Path, bundle: LiveBundle
) -> None:
    risk = watched(tmp_path, bundle)
    misses(risk, bundle, 20)
    before = book(risk, bundle).state
    assert (risk.status()["exits_as_0"], risk.status()["exits"]) == (False, True)
    risk.change(ALL.model_copy(update={"reaction": "defer_all", "audits_per_hour": 5}))
    assert risk.status()["exits"] is False
    assert risk.policy(bundle).rule is None
    risk.change(ALL.model_copy(update={"reaction": "observe", "adapt": False}))
    assert risk.policy(bundle).rule == bundle.params.rule
    assert book(risk, bundle).state == before
    assert risk.status()["level"] == "alarm"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shares": AuditShares(exit0=0.5)}, "live_risk.shares: the audits of a live certificate"),
        ({"test": SequentialSettings(delta=0.1)}, "live_risk.test: "),
        ({"adaptation": AdaptationSettings(gamma=0.1), "reaction": "observe"}, "live_risk.adaptation: "),
        ({"enabled": False}, "live_risk.enabled: .* restart it"),
    ],
)
def test_what_a_running_watch_counts_by_is_not_changed_under_it(
    tmp_path: Path, bundle: LiveBundle, changes: dict[str, Any], told: str
) -> None:
    risk = watched(tmp_path, bundle)
    with pytest.raises(SettingsError, match=told):
        risk.change(ALL.model_copy(update=changes))
    assert risk.settings == ALL
    assert book(risk, bundle).terms.shares == ALL.shares


def test_scores_that_drift_are_told_from_those_that_do_not(tmp_path: Path, bundle: LiveBundle) -> None:
    risk = watched(tmp_path, bundle, LiveRiskSettings())
    rng = np.random.default_rng(4)
    for number, score in enumerate([*rng.normal(0, 1, 60), *rng.normal(-4, 0.3, 60)]):
        took(risk, seen(bundle, number, roadwork_score=float(score)))
        if number == 59:
            risk.tick()
            assert not risk.drifts(-4.0), "nothing drifts yet"
    risk.tick()
    assert risk.status()["reasons"] == ["drift"]
    assert risk.drifts(-4.5)
    assert not risk.drifts(1.0)
