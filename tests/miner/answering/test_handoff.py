"""The way to Stage-2 of a running miner: changed under load, with a budget that is kept, and without one that is 0."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from engines.errors import BundleRefused, EngineError
from engines.remote.http import Client
from engines.store.file_names import CALIBRATOR, ENGINE, PREPROCESS
from engines.store.stage2_scores import HOME, RECORD
from miner.answering.handoff import BUDGET_FILE, HandOff
from stage1.errors import CascadeError, SettingsError
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import MAIN_HEAD
from stage1.probability.server_score import calibrated_scores
from stage2_bridge.calibration.live import Calibrations
from stage2_bridge.client import Outcome, OverBudget, ServerIdentity, Verdict
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.local_engine import LocalEngineClient
from stage2_bridge.settings import Stage2Settings
from tests.stage2_bridge.calibration.test_record import record
from tests.support.calibrators import calibrator_of_slopes
from tests.support.stage2_servers import Fake, chat, classifier


def fake(probability: float, **more: Any) -> Fake:
    return Fake(classifier(lambda _: {"probability": np.array([probability], np.float32)}), **more)


def kserve(server: Fake, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "kserve", "name": name, "url": server.url, "model": "roadwork", "timeout_s": 60.0, **more}


def settings(*servers: dict[str, Any], **more: Any) -> Stage2Settings:
    return Stage2Settings.model_validate({"servers": servers, "cache": {"window_s": 0}, **more})


async def ask(hand_off: HandOff, content: bytes = b"image", probability: float | None = None) -> Verdict:
    return await hand_off.bridge.ask(content, time.monotonic() + 60.0, probability=probability)


def test_servers_are_changed_under_load_and_no_hand_off_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake(0.2, before_s=0.05).running() as old, fake(0.9, before_s=0.05).running() as new:
            first, second = settings(kserve(old, "a", connections=4)), settings(kserve(new, "a", connections=4))
            hand_off = HandOff(first, tmp_path)
            hand_off.begin()
            asking = []
            for number in range(120):
                asking.append(asyncio.ensure_future(ask(hand_off)))
                await asyncio.sleep(0.01)
                if number % 30 == 29:
                    await hand_off.change(second if number % 60 == 29 else first)
            verdicts = await asyncio.gather(*asking)
            counts = Counter((one.outcome, round(one.probability or 0, 1)) for one in verdicts)
            assert counts.keys() == {(Outcome.ANSWERED, 0.2), (Outcome.ANSWERED, 0.9)}
            # Each of the servers that was replaced is closed once it has nothing more to do.
            async with asyncio.timeout(60):
                while hand_off._retired:
                    await asyncio.sleep(0.01)
            await hand_off.end()
            await hand_off.bridge.close()
            await hand_off.close()

    asyncio.run(scenario())


def test_servers_come_and_go_and_a_server_of_the_same_settings_keeps_its_standing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake(0.9).running() as there:
            gone = kserve(there, "gone") | {"url": "http://127.0.0.1:1"}
            with capture_logs() as logs:
                hand_off = HandOff(Stage2Settings(), tmp_path)
                assert (await ask(hand_off)).outcome is Outcome.ABSENT
                await hand_off.change(settings(gone, kserve(there, "there")))
                for _ in range(25):
                    assert (await ask(hand_off)).server == "there"
                await hand_off.change(settings(gone, kserve(there, "there"), max_waiting=8))
                assert hand_off.bridge.stats.servers[0].state == "open"
                await hand_off.change(settings(gone | {"timeout_s": 1.0}, kserve(there, "there")))
                assert hand_off.bridge.stats.servers[0].state == "closed"
                await hand_off.change(Stage2Settings())
                assert (await ask(hand_off)).outcome is Outcome.ABSENT
                await hand_off.end()
            told = [(entry["event"], entry.get("reason")) for entry in logs if entry["event"] == "no_stage2"]
            assert told == [("no_stage2", "no server is named")] * 2
            await hand_off.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_a_server_that_is_replaced_while_the_miner_stops_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    closed: list[Client] = []

    async def aclose(client: Client) -> None:
        closed.append(client)
        await close(client)

    close = Client.aclose
    monkeypatch.setattr(Client, "aclose", aclose)

    async def scenario() -> None:
        async with fake(0.9).running() as there:
            hand_off = HandOff(settings(kserve(there, "there")), tmp_path)
            assert (await ask(hand_off)).outcome is Outcome.ANSWERED
            await hand_off.change(Stage2Settings())
            for _ in range(turns):
                await asyncio.sleep(0)
            await hand_off.close()

    asyncio.run(scenario())
    assert len(set(closed)) == 1


def engine_at(directory: Path, tiny_engine: Path) -> Path:
    directory.mkdir()
    (directory / ENGINE).write_bytes(tiny_engine.read_bytes())
    PreprocessSettings(size_px=32).write(directory / PREPROCESS)
    calibrator_of_slopes(0.5, 0.5).write(directory / CALIBRATOR)
    return directory


def test_an_engine_stays_loaded_unless_its_files_are_others(tmp_path: Path, tiny_engine: Path) -> None:
    async def scenario() -> None:
        directory = engine_at(tmp_path / "stage2", tiny_engine)
        hand_off = HandOff(Stage2Settings(engine=directory, threads=1), tmp_path)

        def loaded() -> object:
            assert hand_off._servers is not None
            return hand_off._servers.members[0].client

        before = loaded()
        await hand_off.change(Stage2Settings(engine=directory, threads=1, max_waiting=8))
        assert loaded() is before
        calibrator_of_slopes(0.7, 0.5).write(directory / CALIBRATOR)
        # A file system may give both the time of one tick of its clock.
        os.utime(directory / CALIBRATOR, (1, 1))
        await hand_off.change(Stage2Settings(engine=directory, threads=1))
        assert loaded() is not before
        await hand_off.bridge.close()
        await hand_off.close()

    asyncio.run(scenario())


def test_settings_that_cannot_be_opened_change_nothing(tmp_path: Path, tiny_engine: Path) -> None:
    async def scenario() -> None:
        directory = engine_at(tmp_path / "stage2", tiny_engine)
        async with fake(0.9).running() as there:
            hand_off = HandOff(settings(kserve(there, "there"), budget={"calls": 100}), tmp_path)
            for wanted in (
                settings(kserve(there, "there", key_env="NO_SUCH_KEY"), budget={"calls": 9}),
                settings(engine=tmp_path / "nowhere"),
            ):
                with pytest.raises(CascadeError):
                    await hand_off.change(wanted)
                assert (await ask(hand_off)).probability == pytest.approx(0.9)
            budget = hand_off.bridge.stats.budget
            assert budget is not None
            assert (budget.limit, budget.spent) == (100, 2)
            (directory / ENGINE).write_bytes(b"junk")
            with pytest.raises((BundleRefused, EngineError)):
                HandOff(settings(engine=directory, budget={"calls": 100}), tmp_path / "other")
            await hand_off.bridge.close()
            await hand_off.close()

    asyncio.run(scenario())


class TestBudget:
    def test_of_nothing_leaves_all_to_stage1(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with fake(0.9).running() as there:
                for budget in ({"calls": 0}, {"money": 0}):
                    with capture_logs() as logs:
                        hand_off = HandOff(settings(kserve(there, "there"), budget=budget), tmp_path)
                    assert [(one["event"], one["reason"]) for one in logs] == [("no_stage2", "the budget is 0")]
                    assert (await ask(hand_off)).outcome is Outcome.ABSENT
                    await hand_off.close()
            assert there.asked == []

        asyncio.run(scenario())

    def test_ends_and_what_is_left_of_it_is_known_to_the_next_process(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with fake(0.9).running() as there:
                wanted = settings(kserve(there, "there"), budget={"calls": 40})
                for expected in ([Outcome.ANSWERED] * 3, [Outcome.ANSWERED, Outcome.BUDGET, Outcome.BUDGET]):
                    hand_off = HandOff(wanted, tmp_path)
                    verdicts = [await ask(hand_off, probability=0.5) for _ in range(3)]
                    assert [one.outcome for one in verdicts] == expected
                    await hand_off.bridge.close()
                    await hand_off.close()
                assert verdicts[-1].reason == "the budget does not allow a call for this image"
                # A server that costs nothing answers on.
                free = settings(kserve(there, "there"), kserve(there, "ours", free=True), budget={"calls": 40})
                hand_off = HandOff(free, tmp_path)
                assert [(await ask(hand_off)).server for _ in range(3)] == ["ours"] * 3
                await hand_off.bridge.close()
                await hand_off.close()

        asyncio.run(scenario())

    def test_is_changed_and_lifted_while_it_is_in_use(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with fake(0.9).running() as there:
                server = kserve(there, "there", price_a_call=0.01)
                hand_off = HandOff(settings(server, budget={"calls": 20}), tmp_path)
                outcomes = [(await ask(hand_off)).outcome.value for _ in range(3)]
                await hand_off.change(settings(server, budget={"calls": 2000}))
                # What was spent stays spent: the larger bucket fills slowly.
                outcomes.append((await ask(hand_off)).outcome.value)
                await hand_off.change(settings(server))
                outcomes.append((await ask(hand_off)).outcome.value)
                await hand_off.change(settings(server, budget={"money": 1.0}))
                outcomes.append((await ask(hand_off)).outcome.value)
                await hand_off.change(settings(server, budget={"money": 0}))
                outcomes.append((await ask(hand_off)).outcome.value)
                assert outcomes == ["answered", "answered", "budget", "budget", "answered", "budget", "absent"]
                await hand_off.close()

        asyncio.run(scenario())

    def test_in_money_is_settled_by_the_tokens_that_a_server_says(self, tmp_path: Path) -> None:
        def answer(asked: Any) -> bytes | None:
            reply = chat({"yes": -0.1, "no": -2.4})(asked)
            assert reply is not None
            _, body = reply.split(b"\r\n\r\n", 1)
            body = body[:-1] + b', "usage": {"prompt_tokens": 690, "completion_tokens": 10}}'
            return b"HTTP/1.1 200 .\r\ncontent-length: %d\r\n\r\n" % len(body) + body

        async def scenario() -> None:
            async with Fake(answer).running() as there:
                server = {"kind": "openai", "name": "vlm", "url": there.url, "model": "m"}
                prices = {"price_per_1000_tokens": 0.1, "most_tokens": 2000, "price_a_call": 0.01}
                hand_off = HandOff(settings(server | prices, budget={"money": 5.0}), tmp_path)
                for _ in range(2):
                    assert (await ask(hand_off)).outcome is Outcome.ANSWERED
                budget = hand_off.bridge.stats.budget
                assert budget is not None
                assert budget.unit == "money"
                assert budget.spent == pytest.approx(2 * (0.01 + 0.07))
                await hand_off.bridge.close()
                await hand_off.close()

        asyncio.run(scenario())

    def test_costs_nothing_for_a_server_that_cannot_be_reached(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            gone = {"kind": "kserve", "name": "gone", "url": "http://127.0.0.1:1", "model": "m"}
            hand_off = HandOff(settings(gone, budget={"calls": 100}), tmp_path)
            assert (await ask(hand_off)).outcome is Outcome.ERROR
            budget = hand_off.bridge.stats.budget
            assert budget is not None
            assert budget.spent == 0
            await hand_off.bridge.close()
            await hand_off.close()

        asyncio.run(scenario())

    def test_pays_for_what_a_miner_asks_to_know_its_servers_and_has_them_unknown_where_it_cannot(
        self, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            async with fake(0.9).running() as there:
                hand_off = HandOff(settings(kserve(there, "there"), budget={"calls": 40}), tmp_path)
                assert hand_off._servers is not None
                [told] = (await hand_off._servers.check(5.0)).values()
                [identity] = (await hand_off._identities(5.0)).values()
                assert str(told).startswith("model roadwork")
                assert not isinstance(identity, Exception)
                budget = hand_off.bridge.stats.budget
                assert budget is not None
                infers = sum(one.path.endswith("/infer") for one in there.asked)
                assert budget.spent >= infers
                [told] = (await hand_off._servers.check(5.0)).values()
                [unknown] = (await hand_off._identities(5.0)).values()
                assert told == "not looked at, for the budget has nothing left for that"
                assert isinstance(unknown, OverBudget)
                assert sum(one.path.endswith("/infer") for one in there.asked) == infers
                await hand_off.bridge.close()
                await hand_off.close()

        asyncio.run(scenario())

    def test_that_cannot_be_written_down_ends_a_start(self, tmp_path: Path) -> None:
        (tmp_path / BUDGET_FILE).mkdir()
        server = {"kind": "kserve", "name": "one", "url": "http://127.0.0.1:1", "model": "m"}
        with pytest.raises(SettingsError, match="the budget cannot be written down"):
            HandOff(settings(server, budget={"calls": 100}), tmp_path)


def test_the_score_of_a_server_that_was_evaluated_is_calibrated_before_it_is_answered(
    tmp_path: Path, tiny_engine: Path
) -> None:
    directory, home = engine_at(tmp_path / "stage2", tiny_engine), tmp_path / "store" / HOME / "one"
    home.mkdir(parents=True)

    async def scenario() -> None:
        client = LocalEngineClient(directory, threads=1)
        raw = await client.ask(black_image(), 5.0)
        lenient = calibrator_of_slopes(1.0, 1.0, 1.5).heads[MAIN_HEAD]
        found = record().model_copy(update={"server": await client.identity(5.0), "calibrator": lenient})
        await client.close()
        found.write(home / RECORD)
        calibrations = Calibrations(tmp_path / "store")
        hand_off = HandOff(Stage2Settings(engine=directory, threads=1), tmp_path, calibrations)
        hand_off.begin()
        while calibrations.status(["local-engine"])[0].state != "current":
            await asyncio.sleep(0.01)
        [wanted] = calibrated_scores(lenient, np.array([raw]), found.floor)
        assert (await ask(hand_off, black_image())).probability == pytest.approx(wanted)
        assert wanted > raw + 0.1
        await hand_off.bridge.close()
        await hand_off.close()

    asyncio.run(scenario())


def test_to_ask_a_server_who_it_is_is_paid_for_and_left_alone_where_nothing_is_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake(0.9).running() as there:
            hand_off = HandOff(settings(kserve(there, "there"), budget={"calls": 4, "burst": 0.5}), tmp_path)
            servers = hand_off._servers
            assert servers is not None
            for _ in range(2):
                assert isinstance((await servers.identities(5.0))["there"], ServerIdentity)
            asked = len(there.asked)
            assert isinstance((await servers.identities(5.0))["there"], OverBudget)
            assert len(there.asked) == asked
            budget = hand_off.bridge.stats.budget
            assert budget is not None
            assert budget.spent == 2
            await hand_off.bridge.close()
            await hand_off.close()

    asyncio.run(scenario())


def test_a_key_that_is_another_is_read_again_and_where_nothing_is_another_nothing_happens(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake(0.9).running() as there:
            key = tmp_path / "key"
            key.write_text("first")
            wanted = settings(kserve(there, "there", key_file=key))
            hand_off = HandOff(wanted, tmp_path)
            await ask(hand_off)
            servers = hand_off._servers
            await hand_off.change(wanted)
            assert hand_off._servers is servers
            key.write_text("second one")
            await hand_off.change(wanted)
            await ask(hand_off)
            assert there.asked[-1].headers["authorization"] == "Bearer second one"
            key.write_text("")
            with pytest.raises(SettingsError, match="is empty"):
                await hand_off.change(wanted)
            assert (await ask(hand_off)).outcome is Outcome.ANSWERED
            await hand_off.bridge.close()
            await hand_off.close()

    asyncio.run(scenario())


def test_another_server_under_a_name_is_unchecked_until_it_says_who_it_is_whatever_the_old_one_says_meanwhile(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        seventh = classifier(lambda _: {"probability": np.array([0.2], np.float32)}, version="7")
        async with Fake(seventh, only="/infer", before_s=0.5).running() as old, fake(0.9).running() as new:
            calibrations = Calibrations(None)
            first, second = settings(kserve(old, "a", timeout_s=9.0)), settings(kserve(new, "a"))
            hand_off = HandOff(first, tmp_path, calibrations)
            hand_off.begin()
            # The old one is asked who it is, and is gone before it has said so.
            while not any(one.path.endswith("/infer") for one in old.asked):
                await asyncio.sleep(0.01)
            with capture_logs() as logs:
                await hand_off.change(second)
                while calibrations.status(["a"])[0].model != "roadwork 1":
                    await asyncio.sleep(0.01)
                while not any(one["log_level"] == "warning" for one in logs):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
            assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["stage2_not_calibrated"]
            # Longer than the old one takes.
            for _ in range(8):
                await asyncio.sleep(0.1)
                assert calibrations.status(["a"])[0].model == "roadwork 1"
            await hand_off.change(settings(kserve(new, "a") | {"url": "http://127.0.0.1:1"}))
            assert calibrations.status(["a"])[0].model == ""
            await hand_off.end()
            await hand_off.bridge.close()
            await hand_off.close()

    asyncio.run(scenario())
