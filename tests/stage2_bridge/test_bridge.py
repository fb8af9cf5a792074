"""The bridge always comes back by the deadline, with an answer or with the reason for none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from engines.errors import BundleRefused
from engines.store.file_names import CALIBRATOR, ENGINE, PREPROCESS
from stage1.errors import ArtifactError
from stage1.preprocess import PreprocessSettings
from stage2_bridge.bridge import Bridge, BridgeStats
from stage2_bridge.client import ImageRefused, Outcome, Stage2Client, Stage2Error, Verdict
from stage2_bridge.servers.local_engine import LocalEngineClient
from tests.support.calibrators import calibrator_of_slopes
from tests.support.virtual_time import clock, run

IMAGE = b"an image"


@dataclass
class Client:
    """A Stage-2 that does what it is told to."""

    behaviour: Callable[[bytes, float], Awaitable[Any]]
    asked: int = 0
    closed: int = 0
    name: str = "test-server"

    async def ask(self, content: bytes, timeout_s: float) -> float:
        self.asked += 1
        answer: float = await self.behaviour(content, timeout_s)
        return answer

    async def close(self) -> None:
        self.closed += 1


def answering(value: Any, *, after_s: float = 0.0) -> Client:
    async def behaviour(_content: bytes, _timeout_s: float) -> Any:
        await asyncio.sleep(after_s)
        return value

    return Client(behaviour)


def failing(error: BaseException) -> Client:
    async def behaviour(_content: bytes, _timeout_s: float) -> Any:
        await asyncio.sleep(0.1)
        raise error

    return Client(behaviour)


def bridge_to(client: Stage2Client | None, *, max_in_flight: int = 4, max_waiting: int = 0) -> Bridge:
    return Bridge(client, max_in_flight=max_in_flight, max_waiting=max_waiting, clock=clock)


async def ask(client: Stage2Client | None, *, deadline: float = 1.0) -> Verdict:
    return await bridge_to(client).ask(IMAGE, deadline)


class TestAnswer:
    def test_is_handed_back_with_who_gave_it_and_how_long_it_took(self) -> None:
        verdict = run(ask(answering(0.75, after_s=0.25)))
        assert (verdict.outcome, verdict.probability, verdict.server) == (Outcome.ANSWERED, 0.75, "test-server")
        assert verdict.latency_ms == pytest.approx(250)

    @pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, np.float64(0.25)])
    def test_may_be_any_probability(self, value: float) -> None:
        assert run(ask(answering(value))).probability == value

    @pytest.mark.parametrize(
        "value", [math.nan, math.inf, -math.inf, -0.001, 1.001, -1.0, None, "0.5", [0.5], np.array([0.1, 0.9])]
    )
    def test_that_is_no_probability_is_an_error(self, value: Any) -> None:
        with capture_logs() as logs:
            verdict = run(ask(answering(value)))
        assert (verdict.outcome, verdict.probability) == (Outcome.ERROR, None)
        assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["stage2_failed"]

    def test_the_client_gets_the_image_and_the_time_that_is_left(self) -> None:
        got: list[object] = []

        async def behaviour(content: bytes, timeout_s: float) -> float:
            got.extend((content, timeout_s))
            return 0.5

        async def scenario() -> None:
            await asyncio.sleep(2.0)
            await bridge_to(Client(behaviour)).ask(IMAGE, 3.5)

        run(scenario())
        assert got == [IMAGE, 1.5]


class TestNoAnswer:
    def test_without_a_stage2(self) -> None:
        verdict = run(ask(None))
        assert verdict == Verdict(Outcome.ABSENT, None, 0.0, "")

    @pytest.mark.parametrize("late_s", [0.0, 0.5])
    def test_after_the_deadline_nobody_is_asked(self, late_s: float) -> None:
        client = answering(0.5)

        async def scenario() -> Verdict:
            await asyncio.sleep(1.0 + late_s)
            return await ask(client, deadline=1.0)

        assert run(scenario()).outcome is Outcome.TIMEOUT
        assert client.asked == 0

    @pytest.mark.parametrize(
        "error",
        [
            Stage2Error("no"),
            RuntimeError("no"),
            ConnectionResetError("no"),
            ValueError("no"),
            KeyError("no"),
            MemoryError("no"),
            asyncio.CancelledError("the client's own task was cancelled"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_an_error_of_the_client_is_an_outcome_and_never_raised(self, error: BaseException) -> None:
        with capture_logs() as logs:
            verdict = run(ask(failing(error)))
        assert (verdict.outcome, verdict.probability) == (Outcome.ERROR, None)
        [told] = [entry for entry in logs if entry["log_level"] == "warning"]
        assert (told["event"], told["example"]["server"]) == ("stage2_failed", "test-server")

    def test_a_server_that_fails_for_everyone_does_not_fill_the_log(self) -> None:
        async def scenario() -> None:
            bridge = bridge_to(failing(Stage2Error("no")))
            for _ in range(50):
                assert (await bridge.ask(IMAGE, 1e9)).outcome is Outcome.ERROR
            assert bridge.stats == BridgeStats(
                in_flight=0, waiting=0, most=bridge._slots.most, outcomes={"error": 50}, failures={"Stage2Error": 50}
            )

        with capture_logs() as logs:
            run(scenario())
        assert [entry["log_level"] for entry in logs] == ["debug", "warning", *["debug"] * 49]

    def test_the_same_failure_again_and_again_is_told_once_a_minute(self) -> None:
        """A caller that has found an image which fails may send it twenty times a second."""

        async def scenario() -> None:
            for error in (Stage2Error("no"), ValueError("a fault")):
                bridge = bridge_to(failing(error))
                for _ in range(5):
                    assert (await bridge.ask(b"", clock() + 1.0)).outcome is Outcome.ERROR
                await asyncio.sleep(61)
                await bridge.ask(b"", clock() + 1.0)

        with capture_logs() as logs:
            run(scenario())
        told = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
        assert told == ["stage2_failed"] * 4

    def test_a_timeout_of_the_clients_own_is_a_timeout(self) -> None:
        assert run(ask(failing(TimeoutError()))).outcome is Outcome.TIMEOUT


class TestDeadline:
    """On a clock that only moves when everybody waits, in time means at the deadline and not a moment later."""

    def test_a_client_that_sleeps_for_ever_is_left_at_the_deadline(self) -> None:
        async def scenario() -> tuple[Outcome, float]:
            verdict = await ask(answering(0.5, after_s=1e9), deadline=1.5)
            return verdict.outcome, clock()

        assert run(scenario()) == (Outcome.TIMEOUT, 1.5)

    @pytest.mark.parametrize("clean_up_s", [0.2, 1e9])
    def test_a_client_that_takes_its_time_to_be_cancelled_is_not_waited_for(self, clean_up_s: float) -> None:
        async def behaviour(_content: bytes, _timeout_s: float) -> float:
            try:
                await asyncio.sleep(1e9)
            finally:
                await asyncio.sleep(clean_up_s)
            return 0.5

        async def scenario() -> tuple[Outcome, float]:
            verdict = await ask(Client(behaviour), deadline=1.5)
            return verdict.outcome, clock()

        assert run(scenario()) == (Outcome.TIMEOUT, 1.5)

    def test_a_client_that_will_not_be_cancelled_is_not_waited_for(self) -> None:
        async def behaviour(_content: bytes, _timeout_s: float) -> float:
            for _ in range(3):
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    continue
            return 0.5

        async def scenario() -> tuple[Outcome, float]:
            verdict = await ask(Client(behaviour), deadline=1.5)
            return verdict.outcome, clock()

        assert run(scenario()) == (Outcome.TIMEOUT, 1.5)

    def test_an_error_after_the_deadline_goes_nowhere(self) -> None:
        """Not even to the loop's handler of exceptions that nobody fetched."""
        unhandled: list[dict[str, Any]] = []

        async def behaviour(_content: bytes, _timeout_s: float) -> float:
            try:
                await asyncio.sleep(1e9)
            except asyncio.CancelledError as error:
                raise RuntimeError("too late") from error
            return 0.5

        async def scenario() -> Outcome:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
            verdict = await ask(Client(behaviour))
            await asyncio.sleep(1)
            return verdict.outcome

        assert run(scenario()) is Outcome.TIMEOUT
        assert unhandled == []

    def test_a_request_that_is_cancelled_takes_its_hand_off_with_it(self) -> None:
        ended: list[str] = []

        async def behaviour(_content: bytes, _timeout_s: float) -> float:
            try:
                await asyncio.sleep(1e9)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return 0.5

        async def scenario() -> None:
            bridge = bridge_to(Client(behaviour), max_in_flight=1)
            request = asyncio.create_task(bridge.ask(IMAGE, 9.0))
            await asyncio.sleep(1)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await asyncio.sleep(0)
            assert ended == ["cancelled"]
            assert (await bridge.ask(IMAGE, 2.0)).outcome is not Outcome.BUSY

        run(scenario())


class TestBusy:
    def test_more_than_the_limit_is_refused_at_once(self) -> None:
        async def scenario() -> tuple[list[Outcome], float]:
            bridge = bridge_to(answering(0.5, after_s=1.0), max_in_flight=2)
            first = [asyncio.create_task(bridge.ask(IMAGE, 5.0)) for _ in range(2)]
            await asyncio.sleep(0.5)
            refused = await bridge.ask(IMAGE, 5.0)
            assert clock() == 0.5
            outcomes = [(await task).outcome for task in first]
            again = await bridge.ask(IMAGE, 5.0)
            return [refused.outcome, *outcomes, again.outcome], clock()

        outcomes, end = run(scenario())
        assert outcomes == [Outcome.BUSY, Outcome.ANSWERED, Outcome.ANSWERED, Outcome.ANSWERED]
        assert end == 2.0

    @pytest.mark.parametrize("client", [failing(Stage2Error("no")), failing(KeyError("no")), answering(math.nan)])
    def test_a_failure_makes_room_again(self, client: Client) -> None:
        async def scenario() -> list[Outcome]:
            bridge = bridge_to(client, max_in_flight=1)
            return [(await bridge.ask(IMAGE, 9.0)).outcome for _ in range(3)]

        assert run(scenario()) == [Outcome.ERROR] * 3

    def test_a_failure_before_there_is_anything_to_wait_for_makes_room_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def not_even_begun(*_: object) -> Any:
            raise Stage2Error("no connection")

        async def scenario() -> list[Outcome]:
            client = answering(0.5)
            monkeypatch.setattr(client, "ask", not_even_begun)
            bridge = bridge_to(client, max_in_flight=1)
            return [(await bridge.ask(IMAGE, 1.0)).outcome for _ in range(3)]

        assert run(scenario()) == [Outcome.ERROR] * 3

    def test_a_timeout_makes_room_again(self) -> None:
        async def scenario() -> list[Outcome]:
            bridge = bridge_to(answering(0.5, after_s=1e9), max_in_flight=1)
            outcomes = []
            for deadline in (1.0, 2.0, 3.0):
                outcomes.append((await bridge.ask(IMAGE, deadline)).outcome)
                await asyncio.sleep(0.001)
            return outcomes

        assert run(scenario()) == [Outcome.TIMEOUT] * 3

    def test_a_client_that_has_not_let_go_still_counts(self) -> None:
        """Otherwise a stuck Stage-2 would collect hand-offs without limit."""

        async def behaviour(_content: bytes, _timeout_s: float) -> float:
            try:
                await asyncio.sleep(1e9)
            finally:
                await asyncio.sleep(10)
            return 0.5

        async def scenario() -> list[Outcome]:
            bridge = bridge_to(Client(behaviour), max_in_flight=1)
            outcomes = [(await bridge.ask(IMAGE, clock() + 1)).outcome for _ in range(2)]
            await asyncio.sleep(20)
            return [*outcomes, (await bridge.ask(IMAGE, clock() + 1)).outcome]

        assert run(scenario()) == [Outcome.TIMEOUT, Outcome.BUSY, Outcome.TIMEOUT]


class TestQueue:
    def test_a_burst_is_answered_as_far_as_time_allows(self) -> None:
        """Of 63 images that came together 27 were told busy, with six seconds left for all of them."""

        async def scenario() -> tuple[list[Outcome], float]:
            bridge = bridge_to(answering(0.5, after_s=0.3), max_in_flight=16, max_waiting=256)
            verdicts = await asyncio.gather(*(bridge.ask(IMAGE, 6.0) for _ in range(63)))
            return [verdict.outcome for verdict in verdicts], clock()

        outcomes, end = run(scenario())
        assert outcomes == [Outcome.ANSWERED] * 63
        assert end == pytest.approx(4 * 0.3)

    def test_who_has_the_least_time_left_goes_first(self) -> None:
        order: list[bytes] = []

        async def behaviour(content: bytes, _timeout_s: float) -> float:
            order.append(content)
            await asyncio.sleep(1)
            return 0.5

        async def scenario() -> None:
            bridge = bridge_to(Client(behaviour), max_in_flight=1, max_waiting=8)
            asked = {b"first": 20.0, b"late": 15.0, b"soon": 5.0, b"middle": 10.0}
            await asyncio.gather(*(bridge.ask(content, until) for content, until in asked.items()))

        run(scenario())
        assert order == [b"first", b"soon", b"middle", b"late"]

    def test_a_short_wait_that_a_caller_claims_puts_it_before_nobody(self) -> None:
        """The order is that of arrival where the turn is given; the deadline bounds nothing but the caller's own."""
        order: list[bytes] = []

        async def behaviour(content: bytes, _timeout_s: float) -> float:
            order.append(content)
            await asyncio.sleep(1)
            return 0.5

        async def scenario() -> None:
            bridge = bridge_to(Client(behaviour), max_in_flight=1, max_waiting=8)
            asked = {b"first": (20.0, 0.0), b"hurried": (5.0, 0.3), b"patient": (20.0, 0.1), b"usual": (9.0, 0.2)}
            await asyncio.gather(*(bridge.ask(content, until, turn=came) for content, (until, came) in asked.items()))

        run(scenario())
        assert order == [b"first", b"patient", b"usual", b"hurried"]

    def test_who_would_not_be_answered_in_time_is_told_before_it_is_too_late(self) -> None:
        async def scenario() -> list[tuple[Outcome, float]]:
            bridge = bridge_to(answering(0.5, after_s=2.0), max_in_flight=1, max_waiting=8)
            for _ in range(30):
                await bridge.ask(IMAGE, clock() + 9)
            now = clock()

            async def asked(left_s: float) -> tuple[Outcome, float]:
                outcome = (await bridge.ask(IMAGE, now + left_s)).outcome
                return outcome, clock() - now

            return list(await asyncio.gather(asked(9.0), asked(3.0), asked(5.0), asked(1.0)))

        (first, _), (short, short_s), (fits, _), (hopeless, hopeless_s) = run(scenario())
        assert [first, short, fits, hopeless] == [Outcome.ANSWERED, Outcome.BUSY, Outcome.ANSWERED, Outcome.BUSY]
        # Stage-1's answer is not kept from them until their time is up.
        assert short_s == pytest.approx(1.0, abs=0.1)
        assert hopeless_s == 0

    def test_is_bounded(self) -> None:
        async def scenario() -> list[Outcome]:
            bridge = bridge_to(answering(0.5, after_s=1.0), max_in_flight=1, max_waiting=2)
            return [verdict.outcome for verdict in await asyncio.gather(*(bridge.ask(IMAGE, 9.0) for _ in range(5)))]

        assert run(scenario()) == [Outcome.ANSWERED] * 3 + [Outcome.BUSY] * 2

    def test_whoever_gave_up_waiting_is_forgotten_while_stage2_hangs(self) -> None:
        async def scenario() -> int:
            bridge = bridge_to(answering(0.5, after_s=1e9), max_in_flight=1, max_waiting=4)
            hangs = asyncio.create_task(bridge.ask(IMAGE, 1e6))
            for _ in range(200):
                await asyncio.gather(*(bridge.ask(IMAGE, clock() + 1) for _ in range(4)))
            hangs.cancel()
            return len(bridge._slots._queue)

        assert run(scenario()) < 40

    def test_whoever_leaves_the_queue_takes_no_slot_along(self) -> None:
        async def scenario() -> list[Outcome]:
            bridge = bridge_to(answering(0.5, after_s=1.0), max_in_flight=1, max_waiting=4)
            tasks = [asyncio.create_task(bridge.ask(IMAGE, 9.0)) for _ in range(4)]
            await asyncio.sleep(0.5)
            tasks[1].cancel()
            await asyncio.sleep(0.5)
            # Its turn has come in this very moment.
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            verdicts = await asyncio.gather(*(bridge.ask(IMAGE, clock() + 9) for _ in range(3)))
            return [verdict.outcome for verdict in verdicts]

        assert run(scenario()) == [Outcome.ANSWERED] * 3


def test_closing_does_not_wait_for_a_client_that_computes() -> None:
    class Stuck(Client):
        async def close(self) -> None:
            await asyncio.sleep(1e9)

    async def scenario() -> float:
        await bridge_to(Stuck(answering(0.5).behaviour)).close()
        return clock()

    assert run(scenario()) < 3


def test_closing_closes_the_client() -> None:
    client = answering(0.5)
    run(bridge_to(client).close())
    run(bridge_to(None).close())
    assert client.closed == 1


@pytest.fixture
def directory(tmp_path: Path, tiny_engine: Path) -> Path:
    """A larger engine's directory, with the tiny engine in it."""
    (tmp_path / ENGINE).write_bytes(tiny_engine.read_bytes())
    PreprocessSettings(size_px=32).write(tmp_path / PREPROCESS)
    calibrator_of_slopes(0.5, 0.5).write(tmp_path / CALIBRATOR)
    return tmp_path


class TestLocalEngine:
    def picture(self, encoded: Callable[..., bytes], red: int, blue: int) -> bytes:
        return encoded(Image.new("RGB", (50, 40), (red, 100, blue)), "PNG")

    def test_answers_with_its_calibrated_probability(self, directory: Path, encoded: Callable[..., bytes]) -> None:
        async def scenario() -> float:
            client = LocalEngineClient(directory, threads=1)
            answer = await client.ask(self.picture(encoded, 120, 70), 1.0)
            await client.close()
            return answer

        assert asyncio.run(scenario()) == pytest.approx(1 / (1 + math.exp(-0.5 * 0.04 * 50)), abs=1e-5)

    def test_an_image_it_cannot_read_is_an_error(self, directory: Path) -> None:
        async def scenario() -> None:
            client = LocalEngineClient(directory, threads=1)
            with pytest.raises(ImageRefused, match="not a readable"):
                await client.ask(b"not an image", 1.0)
            await client.close()

        asyncio.run(scenario())

    def test_behind_the_bridge_it_answers_and_after_closing_it_is_an_error(
        self, directory: Path, encoded: Callable[..., bytes]
    ) -> None:
        async def scenario() -> list[Outcome]:
            bridge = bridge_to(LocalEngineClient(directory, threads=1))
            outcomes = [(await bridge.ask(self.picture(encoded, 9, 9), clock() + 60)).outcome]
            await bridge.close()
            with capture_logs():
                outcomes.append((await bridge.ask(self.picture(encoded, 9, 9), clock() + 60)).outcome)
            return outcomes

        assert asyncio.run(scenario()) == [Outcome.ANSWERED, Outcome.ERROR]

    @pytest.mark.parametrize("name", [PREPROCESS, CALIBRATOR])
    def test_missing_settings_are_named(self, directory: Path, name: str) -> None:
        (directory / name).unlink()
        with pytest.raises(ArtifactError, match=name):
            LocalEngineClient(directory)

    def test_an_engine_that_is_none_is_refused(self, directory: Path) -> None:
        (directory / ENGINE).write_bytes(b"junk")
        with pytest.raises(BundleRefused):
            LocalEngineClient(directory)

    def test_an_engine_of_another_size_is_refused_at_the_start(self, directory: Path) -> None:
        PreprocessSettings(size_px=64).write(directory / PREPROCESS)
        with pytest.raises(BundleRefused, match="image size"):
            LocalEngineClient(directory)
