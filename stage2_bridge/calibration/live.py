"""Calibrators at work: the score of a server becomes the probability that is answered, by the record of that server.

A calibrator speaks of the server that was asked. Where another version of its model answers, it is the best guess that
there is and stays in use, marked stale. Where another model answers under the name, its scores mean something else, and
they are taken as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import structlog

from engines.machine.background_tasks import begun_in_thread
from engines.store.stage2_scores import HOME, RECORD
from stage1.errors import ArtifactError
from stage1.probability.server_score import calibrated_scores
from stage2_bridge.calibration.record import GainTable, Stage2Record
from stage2_bridge.client import ServerIdentity

log = structlog.get_logger(__name__)

State = Literal["none", "unchecked", "current", "stale"]
Identities = Callable[[float], Awaitable[Mapping[str, ServerIdentity | Exception]]]

# Between two looks at who the servers are. Of a language model each costs a call.
LOOK_S, LOOK_TIMEOUT_S = 1800.0, 60.0
# After one at which a server was not there: it may come back as another one.
AGAIN_S = 60.0


@dataclass(frozen=True)
class CalibrationStatus:
    """How the calibration of a server stands.

    Attributes:
        server: its name.
        state: `current` where its record is of this very server, `stale` where it is of another version or model of it,
            `unchecked` until the server has said who it is, `none` without a record.
        applied: whether a calibrator makes probabilities of its scores.
        model: its model and version, as it says; empty until it has.
        calibrated_on: model and version of the record; empty without one.
        changed: what is other than it was then, in words; empty where nothing is known to be.
        bundle: id of the bundle that the record was made with; empty without one.
        other_bundle: whether another one is live. The calibrator is of the server's scores alone and stays true; which
            share of the hand-offs gains how much, and the numbers of Stage-1 beside the server's, are of that bundle.
        evaluated_at: when, UTC, ISO 8601; empty without one.
    """

    server: str
    state: State
    applied: bool
    model: str = ""
    calibrated_on: str = ""
    changed: str = ""
    bundle: str = ""
    other_bundle: bool = False
    evaluated_at: str = ""


@dataclass(frozen=True)
class _Held:
    state: State
    record: Stage2Record | None = None
    identity: ServerIdentity | None = None

    @property
    def speaking(self) -> Stage2Record | None:
        """The record if it says anything of this server; not one of another model."""
        record, identity = self.record, self.identity
        return None if record is None or (identity is not None and not _same_model(record.server, identity)) else record

    @property
    def applied(self) -> bool:
        """Whether a calibrator makes probabilities of its scores."""
        return self.speaking is not None and self.speaking.calibrator is not None


class Calibrations:
    """The records of a store, and which of them each server answers by.

    Args:
        root: of the store; None for one without records.
        live_bundle: id of the bundle that is live; empty where none is, or where that is not known.
    """

    def __init__(self, root: Path | None, live_bundle: Callable[[], str] = lambda: "") -> None:
        self._root = root
        self._live_bundle = live_bundle
        self._damaged: set[Path] = set()
        self._records = self._read()
        self._held: dict[str, _Held] = {}

    def calibrated(self, server: str, score: float) -> float:
        """The probability of roadwork that a score of a server means; the score itself without a calibrator.

        Args:
            server: its name.
            score: in [0, 1].
        """
        record = self._of(server).speaking
        if record is None or record.calibrator is None:
            return score
        return float(calibrated_scores(record.calibrator, np.array([score]), record.floor)[0])

    def gain(self, server: str) -> GainTable | None:
        """What handing on to a server is worth; None without a record of its model."""
        record = self._of(server).speaking
        return None if record is None else record.gain

    def of_live_bundle(self, server: str) -> bool:
        """Whether the record of a server was made with the live bundle, as far as that is known."""
        return not _other(self._of(server), self._live_bundle())

    def status(self, servers: Sequence[str]) -> tuple[CalibrationStatus, ...]:
        """How the calibration of each of these servers stands."""
        live = self._live_bundle()
        return tuple(_status(server, self._of(server), live) for server in servers)

    def learn(self, found: Mapping[str, ServerIdentity | Exception]) -> None:
        """Take note of who the servers are, by name, and read the records anew; tells what has changed.

        Args:
            found: who each is; one that could not be asked is who it was.
        """
        self._records = self._read()
        for server, identity in found.items():
            if isinstance(identity, Exception):
                continue
            before, held = self._held.get(server), self._matched(identity)
            self._held[server] = held
            if before is None or _status(server, before) != _status(server, held):
                _tell(server, held)

    def forget(self, servers: Iterable[str]) -> None:
        """Others may answer under these names from now on: who they are is not known until they say it."""
        for server in servers:
            self._held.pop(server, None)

    async def watch(self, identities: Identities, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look at who the servers are now and then, for ever.

        Args:
            identities: asks them, in so many seconds.
            sleep: waits.
        """
        while True:
            found = await self.look(identities)
            missing = any(isinstance(one, Exception) for one in found.values())
            await sleep(AGAIN_S if missing else LOOK_S)

    async def look(self, identities: Identities) -> Mapping[str, ServerIdentity | Exception]:
        """Look once, and return what was found."""
        found = await identities(LOOK_TIMEOUT_S)
        await begun_in_thread(partial(self.learn, found), "stage2 records")
        return found

    def _of(self, server: str) -> _Held:
        held = self._held.get(server)
        if held is not None:
            return held
        # Who has not said yet who it is, is taken for the one that was last evaluated under this name.
        record = _newest([one for one in self._records if one.server.name == server])
        return _Held("none") if record is None else _Held("unchecked", record)

    def _matched(self, identity: ServerIdentity) -> _Held:
        records = self._records
        if (exact := _newest([one for one in records if one.speaks_of(identity)])) is not None:
            return _Held("current", exact, identity)
        named = [one for one in records if one.server.name == identity.name]
        alike = [one for one in records if _same_model(one.server, identity)]
        near = [one for one in named if one in alike] or alike or named
        if (other := _newest(near)) is not None:
            return _Held("stale", other, identity)
        return _Held("none", None, identity)

    def _read(self) -> list[Stage2Record]:
        found: list[Stage2Record] = []
        if self._root is None:
            return found
        for path in sorted((self._root / HOME).glob(f"*/{RECORD}")):
            try:
                found.append(Stage2Record.read(path))
                self._damaged.discard(path)
            except ArtifactError as error:
                # A miner without it answers all the same.
                if path not in self._damaged:
                    log.error("stage2_record_damaged", reason=str(error), remedy="run `cascade stage2 evaluate` again")
                self._damaged.add(path)
        return found


def _same_model(one: ServerIdentity, other: ServerIdentity) -> bool:
    return (one.kind, one.model) == (other.kind, other.model)


def _newest(records: Sequence[Stage2Record]) -> Stage2Record | None:
    return max(records, key=lambda one: one.evaluated_at, default=None)


def _named(server: ServerIdentity | None) -> str:
    return "" if server is None else f"{server.model} {server.version}".rstrip()


def _changed(before: ServerIdentity, now: ServerIdentity) -> str:
    if not _same_model(before, now):
        return "the model"
    if before.version != now.version:
        return "the version of the model"
    return "" if before.fingerprint == now.fingerprint else "its flags, how it is asked, or how its reply is read"


def _other(held: _Held, live: str) -> bool:
    return held.record is not None and bool(live) and held.record.bundle != live


def _status(server: str, held: _Held, live: str = "") -> CalibrationStatus:
    record = held.record
    return CalibrationStatus(
        server=server,
        state=held.state,
        applied=held.applied,
        model=_named(held.identity),
        calibrated_on="" if record is None else _named(record.server),
        changed="" if record is None or held.identity is None else _changed(record.server, held.identity),
        bundle="" if record is None else record.bundle,
        other_bundle=_other(held, live),
        evaluated_at="" if record is None else record.evaluated_at,
    )


def _tell(server: str, held: _Held) -> None:
    about = _status(server, held)
    remedy = "run `cascade stage2 evaluate`"
    if held.state == "current":
        log.info("stage2_calibrated", server=server, model=about.model, since=about.evaluated_at, applied=about.applied)
    elif held.state == "stale":
        consequence = "the old calibrator stays in use" if about.applied else "its scores are taken as they are"
        log.warning(
            "stage2_calibration_stale",
            server=server,
            model=about.model,
            calibrated_on=about.calibrated_on,
            changed=about.changed,
            consequence=consequence,
            remedy=remedy,
        )
    else:
        log.warning(
            "stage2_not_calibrated",
            server=server,
            model=about.model,
            consequence="its scores are taken as they are",
            remedy=remedy,
        )
