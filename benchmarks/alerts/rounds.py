"""The rounds of faults: each is made, waited for until it is told, mended, and waited for again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.alerts.faults import ROAD, ROADWORK, UNSURE, World
from benchmarks.alerts.receiver import Receiver
from benchmarks.serving.miner import Miner

SETTLES_S, SLACK_S = 60.0, 120.0
# A quantile needs fifty answers; the last five thousand are looked at.
FEW, ALL = 60, 5_200


@dataclass(frozen=True)
class Expected:
    """What has to be told.

    Attributes:
        event: as the issue of an operator calls it.
        name: of the condition or of the event.
        has_end: its end is told as well.
        level: of the message, where it decides which one is meant.
    """

    event: str
    name: str
    has_end: bool = True
    level: str = ""

    def begun(self, receiver: Receiver) -> list[dict[str, Any]]:
        """Messages of its beginning."""
        if self.has_end:
            return receiver.conditions(self.name, "condition_begins")
        return receiver.events(self.name, self.level)

    def over(self, receiver: Receiver) -> list[dict[str, Any]]:
        """Messages of its end."""
        return receiver.conditions(self.name, "condition_over") if self.has_end else []


FIRST = (
    Expected("no valid request for N h", "silent"),
    Expected("refused all", "all_refused"),
    Expected("deregistered", "deregistered"),
    Expected("emission burned", "emission_burned"),
    Expected("disk", "disk"),
    Expected("GPU fault", "gpu_fault"),
    Expected("nightly not green for 36 h", "night_overdue"),
)
NIGHT = Expected("nightly failed", "retrain_failed", has_end=False)
SECOND = (
    Expected("chain stale", "chain_stale"),
    Expected("p99 over limit", "slow"),
    Expected("deferral rate out of band", "deferral_rate"),
)
THIRD = (Expected("answers without Stage-2", "degraded"), Expected("no Stage-2 server answers", "stage2_away"))
RISK = Expected("risk alarm", "live_risk", has_end=False, level="alarm")
LIVE = Expected("new bundle live", "bundle_live", has_end=False)
BACK = Expected("rollback", "rollback", has_end=False)
EVERYTHING = (*FIRST, NIGHT, *SECOND, *THIRD, RISK, LIVE, BACK)


@dataclass(frozen=True)
class Pings:
    """How often an address was asked in some seconds while the miner was ready, and while it was not."""

    ready: int
    not_ready: int
    seconds: float


def run(world: World, miner: Miner, receiver: Receiver) -> Pings:
    """All rounds; what was told is with the receiver."""
    rounds = Rounds(world, miner, receiver)
    pings = rounds.first()
    rounds.second()
    rounds.third()
    rounds.bundles()
    return pings


class Rounds:
    """Rounds of one miner.

    Args:
        world: around it.
        miner: it.
        receiver: takes what it tells.
    """

    def __init__(self, world: World, miner: Miner, receiver: Receiver) -> None:
        self._world = world
        self._miner = miner
        self._receiver = receiver
        self._started = time.monotonic()

    def first(self) -> Pings:
        """Strangers alone ask, from the start on; and everything around the miner breaks."""
        world, port = self._world, self._miner.port
        ready = self._pings(5.0)
        world.chain(bad=True)
        world.disk(full=True)
        world.gpu(recovery=1)
        self._until([*FIRST, NIGHT], "begun", lambda: world.knock(port))
        pings = Pings(ready, self._pings(5.0), 5.0)
        world.chain()
        world.disk(full=False)
        world.gpu()
        world.night_succeeds()
        self._until(FIRST, "over", lambda: world.ask(port, ROADWORK, 1, 1))
        return pings

    def second(self) -> None:
        """The chain cannot be read, and images that defer come to a slow Stage-2."""
        world, port = self._world, self._miner.port
        world.ask(port, ROADWORK, FEW)
        world.chain(broken=True)
        world.stage2(delay_s=1.5)
        world.ask(port, UNSURE, 4 * FEW)
        self._until(SECOND, "begun", lambda: world.ask(port, UNSURE, 1, 1))
        world.chain()
        world.stage2()
        world.ask(port, ROADWORK, ALL)
        self._until(SECOND, "over", lambda: world.ask(port, ROADWORK, 1, 1))

    def third(self) -> None:
        """Stage-2 fails."""
        world, port = self._world, self._miner.port
        world.stage2(broken=True)
        # More than the share that is allowed, and less than the band of hand-offs, of the answers that are looked at.
        world.ask(port, UNSURE, ALL // 10)
        self._until(THIRD, "begun", lambda: world.ask(port, UNSURE, 1, 1))
        world.stage2()
        world.ask(port, ROADWORK, ALL)

        def both() -> None:
            # What defers asks whether Stage-2 is back.
            world.ask(port, UNSURE, 1, 1)
            world.ask(port, ROADWORK, 20, 1)

        self._until(THIRD, "over", both)

    def bundles(self) -> None:
        """Two models see roadwork in what exits as none; then a new bundle is live, and is rolled back."""
        world, port = self._world, self._miner.port
        world.ask_from_everywhere(port, ROAD)
        self._until([RISK], "begun", lambda: None)
        world.home.activate(world.second)
        self._until([LIVE], "begun", lambda: None)
        assert world.roll_back() == 200
        self._until([BACK], "begun", lambda: None)

    def _until(self, wanted: Iterable[Expected], what: str, meanwhile: Callable[[], object]) -> None:
        """Wait until all of it is told, or for as long as that may take."""
        missing, deadline = list(wanted), time.monotonic() + 2 * SETTLES_S + SLACK_S
        while missing and time.monotonic() < deadline:
            meanwhile()
            missing = [one for one in missing if not getattr(one, what)(self._receiver)]
            time.sleep(1.0)
        took = time.monotonic() - self._started
        lacks = f", without {', '.join(one.name for one in missing)}" if missing else ""
        print(f"{took:6.0f} s  {what}{lacks}", flush=True)

    def _pings(self, seconds: float) -> int:
        before = len(self._receiver.pings)
        time.sleep(seconds)
        return len(self._receiver.pings) - before
