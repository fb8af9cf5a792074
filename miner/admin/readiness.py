"""Whether validators get answers from this miner: the conditions, each computed when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from miner.admin.live_miner import LiveMiner


@dataclass(frozen=True)
class Condition:
    """One thing that has to hold.

    Attributes:
        name: a word for it.
        holds: whether it does.
        detail: what was found.
    """

    name: str
    holds: bool
    detail: str


def conditions(miner: LiveMiner) -> list[Condition]:
    """All conditions in a fixed order; one that cannot be computed does not hold, and says why."""
    found = []
    for name, check in CHECKS.items():
        try:
            holds, detail = check(miner)
        except Exception as error:  # noqa: BLE001  whoever asks is told
            holds, detail = False, f"cannot be told: {error!r}"
        found.append(Condition(name, holds, detail))
    return found


def _axon(miner: LiveMiner) -> tuple[bool, str]:
    servers = {hotkey: axon.server for hotkey, axon in miner.axons.items()}
    told = (
        f"{hotkey} {'accepts' if server.accepting else 'does not accept'} connections on port {server.port}"
        for hotkey, server in servers.items()
    )
    return bool(servers) and all(server.accepting for server in servers.values()), "; ".join(told) or "none"


def _bundle(miner: LiveMiner) -> tuple[bool, str]:
    generation = miner.follower.slot.generation
    return generation > 0, f"{miner.follower.live_id}, generation {generation}" if generation else "none is live"


def _stage1(miner: LiveMiner) -> tuple[bool, str]:
    working = miner.batcher.working
    return working, "its threads compute" if working else "a thread that computes has ended"


def _metagraph(miner: LiveMiner) -> tuple[bool, str]:
    known = miner.chain()
    failures = f", {known['failures']} failures since" if known["failures"] else ""
    return bool(known["fresh"]), f"read {known['age_s']:.0f} s ago at block {known['block']}{failures}"


def _registered(miner: LiveMiner) -> tuple[bool, str]:
    registered = miner.chain()["registered"]
    return any(registered.values()), f"{sum(registered.values())} of {len(registered)} hotkeys are on the subnet"


def _not_stopping(miner: LiveMiner) -> tuple[bool, str]:
    stopping = miner.stopping()
    return not stopping, "the miner was told to stop" if stopping else "it runs"


CHECKS: dict[str, Callable[[LiveMiner], tuple[bool, str]]] = {
    "axon": _axon,
    "bundle": _bundle,
    "stage1": _stage1,
    "metagraph": _metagraph,
    "registered": _registered,
    "not_stopping": _not_stopping,
}
