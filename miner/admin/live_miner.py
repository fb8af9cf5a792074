"""What the administrator's endpoint reads of a running miner, each part at the moment it is asked for."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from engines.live.batcher import Batcher
from engines.live.swap.follower import StoreFollower
from engines.machine.nvml.health import GpuHealth, faults
from engines.machine.tally import Tally
from engines.store.model_card import DAY_S
from stage2_bridge.bridge import Bridge
from stage2_bridge.calibration.live import Calibrations, CalibrationStatus

# Whoever asks how the miner is waits for its disks no longer.
LOOK_S = 1.0


class Server(Protocol):
    """Where one of our hotkeys is served."""

    @property
    def port(self) -> int:
        """TCP port."""
        ...

    @property
    def accepting(self) -> bool:
        """Whether it takes connections at this moment."""
        ...

    @property
    def connections(self) -> int:
        """How many connections are open."""
        ...


@dataclass(frozen=True)
class Axon:
    """One of our hotkeys.

    Attributes:
        server: where it is served.
        in_flight: how many of its requests are being read or answered.
    """

    server: Server
    in_flight: Callable[[], int]


@dataclass(frozen=True)
class LiveMiner:
    """The parts of a running miner.

    Attributes:
        state: its state directory.
        axons: by our hotkey, an ss58 address.
        follower: holds the live bundle.
        batcher: computes with it.
        bridge: the way to Stage-2.
        replies: number of replies by our hotkey and HTTP status.
        auth_modes: number of proved requests by the way in which they were.
        tallies: what is counted by reason: `refused`, `degraded` and `journal_failed`.
        chain: what is known of the subnet; see `miner.chain.watch.ChainWatch.status`.
        nightly: see `miner.nights.job.NightlyJob.status`.
        alerts: what was told from afar and holds still; see `miner.alerts.watch.Alerts.status`.
        stopping: whether the miner was told to stop.
        now: wall-clock time, UTC.
        calibrations: of the Stage-2 servers; None where nobody keeps any.
        canary: see `engines.live.swap.canary.Canary.status`.
        live_risk: see `miner.live_risk.live_risk.LiveRisk.status`; empty where nothing is watched.
        harvest: see `miner.harvest.harvest.Harvest.status`; empty where nothing is kept.
        update: see `miner.update.watch.UpdateWatch.status`; empty where nobody has looked.
        gpus: the latest reading of the GPUs; None where nobody watches them.
        disks: how long each disk has been waited for, in seconds, by what it is the disk of.
        look_at_nights: has what `nightly` tells read anew, for no longer than so many seconds.
    """

    state: str
    axons: Mapping[str, Axon]
    follower: StoreFollower
    batcher: Batcher
    bridge: Bridge
    replies: Mapping[tuple[str, int], int]
    auth_modes: Mapping[str, int]
    tallies: Mapping[str, Tally]
    chain: Callable[[], Mapping[str, Any]]
    nightly: Callable[[], Mapping[str, Any]]
    alerts: Callable[[], Mapping[str, Any]]
    stopping: Callable[[], bool]
    now: Callable[[], datetime]
    calibrations: Calibrations | None = None
    canary: Callable[[], Mapping[str, Any] | None] = lambda: None
    live_risk: Callable[[], Mapping[str, Any]] = dict
    harvest: Callable[[], Mapping[str, Any]] = dict
    update: Callable[[], Mapping[str, Any]] = dict
    gpus: Callable[[], GpuHealth | None] = lambda: None
    disks: Callable[[], Mapping[str, float]] = dict
    look_at_nights: Callable[[float], Awaitable[object]] | None = None

    async def look(self, *, store: bool = True) -> None:
        """Have read anew what is told of disks; of one that hangs, what was read last is told.

        Args:
            store: of the store as well.
        """
        reads = [] if self.look_at_nights is None else [self.look_at_nights(LOOK_S)]
        await asyncio.gather(*reads, *([self.follower.look(LOOK_S)] if store else []))

    def stage2_calibrations(self) -> tuple[CalibrationStatus, ...]:
        """How the calibration of each Stage-2 server stands."""
        names = [one.name for one in self.bridge.stats.servers]
        return () if self.calibrations is None else self.calibrations.status(names)

    def certificate(self) -> str | None:
        """The certificate of the live bundle in words, or why there is none; None where no bundle is live."""
        slot = self.follower.slot
        if not slot.generation:
            return None
        with slot.lease() as lease:
            params = lease.bundle.params
        return params.statement if params.status == "CERTIFIED" else f"{params.statement} Why: {params.reason}"

    def _gpu(self) -> dict[str, Any] | None:
        """The GPUs and what is wrong with them, as plain values; None where nobody watches them."""
        health = self.gpus()
        if health is None:
            return None
        return health.model_dump(mode="json") | {"faults": [one._asdict() for one in faults(health)]}

    def status(self) -> dict[str, Any]:
        """Everything, as plain values; of each bundle in the history its state, why it was refused, and seconds."""
        status = self.follower.status()
        plain = {name: value for name, value in vars(status).items() if name not in {"history", "submitted_at"}}
        since = status.submitted_at
        plain["model_age_days"] = None if since is None else round((self.now() - since).total_seconds() / DAY_S, 4)
        history = [
            {"bundle": life.bundle, "state": str(life.state), "reason": life.reason, "seconds": life.seconds()}
            for life in status.history
        ]
        replies: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for (hotkey, code), number in self.replies.items():
            replies[hotkey][code] = number
        axons = {
            hotkey: {
                "port": axon.server.port,
                "accepting": axon.server.accepting,
                "connections": axon.server.connections,
                "in_flight": axon.in_flight(),
            }
            for hotkey, axon in self.axons.items()
        }
        return {
            **plain,
            "certificate": self.certificate(),
            "history": history,
            "batcher": asdict(self.batcher.stats),
            "stage2": asdict(self.bridge.stats),
            "stage2_calibrations": [asdict(one) for one in self.stage2_calibrations()],
            "axons": axons,
            "replies": replies,
            "auth_modes": dict(self.auth_modes),
            **{name: dict(tally.counts) for name, tally in self.tallies.items()},
            "chain": dict(self.chain()),
            "nightly": dict(self.nightly()),
            "canary": self.canary(),
            "live_risk": dict(self.live_risk()),
            "harvest": dict(self.harvest()),
            "gpu": self._gpu(),
            "alerts": dict(self.alerts()),
            "update": dict(self.update()),
            "disks": {name: round(seconds, 1) for name, seconds in self.disks().items()},
            "stopping": self.stopping(),
        }
