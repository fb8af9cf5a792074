"""Reads a running miner for the rules of `miner.alerts.rules`."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engines.machine.background_tasks import begun_in_thread
from engines.machine.nvml.health import faults
from miner.admin.live_miner import LiveMiner
from miner.alerts.rules import FEWEST, Reading
from miner.answering.record import RequestRecord
from stage1.decisions import Action
from stage2_bridge.client import Outcome

LOOKED_AT_S, KEPT = 900.0, 5_000
ANSWERED = 200
# A disk that says nothing for so long hangs.
DISK_S = 10.0


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    seconds: float
    degraded: bool
    deferred: bool | None


class RecentAnswers:
    """An observer that remembers the answers of the last quarter of an hour, and no more than some thousands.

    Args:
        clock: monotonic time in seconds.

    Attributes:
        heard: there was an answer.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: deque[_Answer] = deque(maxlen=KEPT)
        self._last = clock()
        self.heard = False

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer`."""
        if record.result == "abandoned":
            return
        self._last, self.heard = (now := self._clock()), True
        deferred = None if record.action is None else record.action is Action.DEFER
        self._kept.append(_Answer(now, record.total_ms / 1e3, record.failure is not None, deferred))

    @property
    def since_s(self) -> float:
        """Since the last answer, or since the start."""
        return self._clock() - self._last

    def latest(self) -> Sequence[_Answer]:
        """Those of the time that is looked at."""
        oldest = self._clock() - LOOKED_AT_S
        while self._kept and self._kept[0].at < oldest:
            self._kept.popleft()
        return tuple(self._kept)


class MinerReader:
    """Makes a reading of a running miner.

    Args:
        miner: the miner.
        answers: its latest answers.
        night_due: whether nights are on.
        directories: whose disks must have room.
    """

    def __init__(
        self, miner: LiveMiner, answers: RecentAnswers, *, night_due: Callable[[], bool], directories: Sequence[Path]
    ) -> None:
        self._miner = miner
        self._answers = answers
        self._night_due = night_due
        self._directories = directories
        self._began = miner.now()
        self._refusals: deque[tuple[float, int]] = deque()

    def free_bytes(self) -> dict[str, int | None]:
        """Free space by the directories of each disk, None where one is gone.

        A disk of the network may take its time to say so.
        """
        disks: dict[object, list[Path]] = {}
        for directory in self._directories:
            disks.setdefault(_disk(directory), []).append(directory)
        return {" and ".join(map(str, sharing)): _free(sharing[0]) for sharing in disks.values()}

    def read(self, clock_s: float, free_bytes: Mapping[str, int | None]) -> Reading:
        """The miner at this moment.

        Args:
            clock_s: monotonic time in seconds.
            free_bytes: free space by directory, None where it cannot be told.
        """
        latest = self._answers.latest()
        seen = [answer.deferred for answer in latest if answer.deferred is not None]
        chain, nightly = self._miner.chain(), self._miner.nightly()
        stage2, health = self._miner.bridge.stats, self._miner.gpus()
        return Reading(
            since_answer_s=self._answers.since_s,
            heard=self._answers.heard,
            answered=len(latest),
            refused=self._refused(clock_s),
            p99_s=_p99([answer.seconds for answer in latest]),
            degraded=_share([answer.degraded for answer in latest]),
            deferred=_share(seen),
            chain_age_s=float(chain["age_s"]),
            chain_fresh=bool(chain["fresh"]),
            registered=dict(chain["registered"]),
            subnet=tuple(chain.get("conditions", ())),
            night_due=self._night_due(),
            since_night_s=self._since_night(nightly),
            nights_known=bool(nightly.get("known", True)),
            free_bytes=free_bytes,
            hangs_s=self._miner.disks(),
            gpus_known=health is not None and health.is_read,
            gpu_faults=() if health is None else tuple(faults(health)),
            servers={one.name: str(one.state) for one in stage2.servers},
            handed_on=stage2.outcomes.get(Outcome.ANSWERED, 0) > 0,
            affordable=None if stage2.budget is None else stage2.budget.share,
        )

    def _refused(self, clock_s: float) -> int:
        """Refusals of the time that is looked at."""
        total = sum(self._miner.tallies["refused"].counts.values())
        self._refusals.append((clock_s, total))
        while clock_s - self._refusals[0][0] > LOOKED_AT_S:
            self._refusals.popleft()
        return total - self._refusals[0][1]

    def _since_night(self, nightly: Mapping[str, Any]) -> float:
        """Since the last success; without one since the first night that is known, or since the miner started."""
        known = nightly.get("last_success") or nightly.get("first_at")
        since = self._began if known is None else datetime.fromisoformat(known)
        return (self._miner.now() - since).total_seconds()


class Disks:
    """Asks for the room on disks; one that hangs is one that cannot be read, and holds nobody up.

    Args:
        read: free space by directories, None where it cannot be told; may hang.
        wait_s: the longest wait.
    """

    def __init__(self, read: Callable[[], dict[str, int | None]], wait_s: float = DISK_S) -> None:
        self._read = read
        self._wait_s = wait_s
        self._known: dict[str, int | None] = {"the store or the state": None}
        self._asked: asyncio.Future[dict[str, int | None]] | None = None

    async def free_bytes(self) -> dict[str, int | None]:
        """Free space by directories, None for all while no answer comes."""
        # Not one more thread for each look at a disk that hangs.
        self._asked = self._asked or begun_in_thread(self._read, "disks")
        done, _ = await asyncio.wait([self._asked], timeout=self._wait_s)
        if not done:
            return dict.fromkeys(self._known)
        asked, self._asked = self._asked, None
        self._known = asked.result()
        return self._known


def _disk(directory: Path) -> object:
    """What two directories of one disk have in common; the directory itself where it is gone."""
    try:
        return directory.stat().st_dev
    except OSError:
        return directory


def _free(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def _p99(seconds: Sequence[float]) -> float | None:
    return sorted(seconds)[int(0.99 * len(seconds))] if len(seconds) >= FEWEST else None


def _share(marked: Sequence[bool]) -> float | None:
    return sum(marked) / len(marked) if len(marked) >= FEWEST else None
