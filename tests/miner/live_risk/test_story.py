"""A validator turns to scenes that Stage-1 misses: flags, labels, alarm, tightening, harvest, a new bundle, calm."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import BatchSettings, SwapSettings
from engines.live.swap.follower import StoreFollower
from engines.store.store import Store
from miner.answering.cascade import Cascade
from miner.answering.deadline import TimeBudget
from miner.answering.request import Request
from miner.answering.settings import EngineSettings
from miner.harvest.harvest import Harvest
from miner.harvest.labelled_data import write_data
from miner.harvest.settings import HarvestSettings
from miner.live_risk.auditor import Auditor
from miner.live_risk.inbox import AuditLabel, Inbox
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.settings import LiveRiskSettings
from stage1.monitor.audit import ExitLabel
from stage1.monitor.settings import AuditShares
from stage2_bridge.bridge import Bridge

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
# The tiny engine scores red against blue, so it takes roadwork at night for an empty road.
Scene = tuple[tuple[int, int, int], ExitLabel]
ROADWORK: Scene = (230, 220, 20), 1
ROAD: Scene = (20, 220, 230), 0
NIGHT_ROADWORK: Scene = (25, 220, 225), 1
BUDGET = TimeBudget(deadline_s=1e9, margin_s=0.0, reserve_s=0.05)


class World:
    """Pictures and what they show; a Stage-2 that sees all of it."""

    name = "expert"

    def __init__(self) -> None:
        self.truth: dict[str, ExitLabel] = {}
        self._rng = np.random.default_rng(0)

    def picture(self, colour: tuple[int, int, int], label: ExitLabel) -> bytes:
        """A PNG of its own."""
        noise = self._rng.integers(-20, 21, (32, 32, 3))
        file = io.BytesIO()
        Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(file, "PNG")
        self.truth[hashlib.sha256(file.getvalue()).hexdigest()] = label
        return file.getvalue()

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        return 0.9 if self.truth[hashlib.sha256(content).hexdigest()] else 0.1

    async def close(self) -> None:
        pass


def test_from_a_shift_to_a_new_bundle(tmp_path: Path, store: Store, publish: Callable[..., str]) -> None:  # noqa: PLR0915
    async def story() -> None:  # noqa: PLR0915
        world, clock = World(), [NOON]
        publish("first")
        follower = StoreFollower(store, settings=SwapSettings(trial=False), options=EngineOptions(threads=1, most=1))
        await follower.start()
        settings = LiveRiskSettings(audits=True, shares=AuditShares(exit0=1.0, exit1=1.0), audits_per_hour=10_000)
        risk = LiveRisk(tmp_path / "risk", settings, now=lambda: clock[0])
        harvest = Harvest(tmp_path / "harvest", HarvestSettings(random_share=0.3), secret=b"0123456789abcdef")
        risk.contradicted = harvest.take_contradicted
        with follower.slot.lease() as lease:
            risk.live(lease.bundle)
        bridge = Bridge(world, max_in_flight=8, max_waiting=8, clock=time.monotonic)
        auditor = Auditor(risk, bridge, follower.slot, clock=time.monotonic)
        cascade = Cascade(
            follower.slot,
            Batcher(BatchSettings()),
            bridge,
            observers=(risk,),
            image_observers=(risk, harvest),
            policy=risk.policy,
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: clock[0],
        )

        async def validator(*scenes: Scene) -> list[float]:
            """Ask about these, and let the watch see them and ask about all it drew."""
            answers = []
            for colour, label in scenes:
                clock[0] += timedelta(minutes=11)
                image = base64.b64encode(world.picture(colour, label)).decode()
                request = Request("r", "validator", None, image, BUDGET.deadline(time.monotonic(), 30.0))
                answers.append((await cascade.answer(request)).probability)
            # Of what waits a few are taken at a time.
            until = time.monotonic() + 120
            while risk.queue or harvest.queue:
                assert time.monotonic() < until
                await asyncio.sleep(0.05)
            await auditor._look()
            return answers

        def people() -> None:
            """Label every audit that waits for a person."""
            watch = risk._watches[risk._live]
            waiting = watch.audits.book.unlabelled()
            labels = [(one.drawn.number, world.truth[one.drawn.image_sha256]) for one in waiting]
            Inbox(tmp_path / "risk").put(
                [AuditLabel(certificate=risk._live, number=number, label=label) for number, label in labels]
            )
            risk.tick()

        day = await validator(*[ROADWORK, ROAD, ROAD] * 8)
        assert [answer > 0.5 for answer in day] == [True, False, False] * 8
        assert (risk.status()["level"], risk.status()["losses"], risk.status()["theta"]) == ("ok", 0, 0)

        night = await validator(*[NIGHT_ROADWORK, ROAD] * 12)
        assert not any(answer > 0.5 for answer in night), "they are missed, with a certificate"
        assert risk.status()["for_people"] == 12
        assert risk.status()["level"] == "ok", "flags are no misses"
        await asyncio.to_thread(people)
        status = risk.status()
        assert (status["level"], status["losses"], status["exits_as_0"]) == ("alarm", 12, False)

        tightened = await validator(*[NIGHT_ROADWORK, ROAD, ROADWORK] * 2)
        assert [answer > 0.5 for answer in tightened] == [True, False, True] * 2, "Stage-2 answers what exited as 0"
        assert bridge.stats.outcomes["answered"] >= 4

        # What was handed to the thread before this is kept.
        await asyncio.to_thread(harvest.queue.disk.submit(lambda: None).result)
        images = harvest.store.images.values()
        assert sum("contradicted" in one.reasons or "random" in one.reasons for one in images) >= 12
        labels = {one.sha256: world.truth[one.sha256] for one in images}
        going = write_data(harvest.store, labels, tmp_path / "data", date(2026, 3, 20))
        assert going["any set"] > 0
        assert going["train"] > 0
        assert going["later"] == 0

        publish("second", shift=0.25, golden_shift=0.25)
        assert await follower.refresh()
        calm = await validator(ROAD, ROADWORK)
        assert [answer > 0.5 for answer in calm] == [False, True]
        status = risk.status()
        assert (status["level"], status["audits"], status["theta"], status["exits_as_0"]) == ("ok", True, 0, True)
        assert status["bundle"] == follower.live_id
        await asyncio.to_thread(risk.close)
        await asyncio.to_thread(harvest.close)
        await cascade.close()
        await follower.close()

    asyncio.run(story())
