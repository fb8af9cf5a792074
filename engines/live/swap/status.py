"""What a follower holds and has done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from engines.engine import Engine, ServedElsewhere
from engines.live.load.load_bundle import LiveBundle
from engines.live.slot import BundleSlot
from engines.live.states import Lifecycle
from engines.live.swap.store_reader import Told


@dataclass(frozen=True)
class Status:
    """What a follower holds and has done.

    Attributes:
        generation: of the live bundle.
        bundle: id of the live bundle.
        engine: what computes.
        policy: status of its certificate.
        stream: the pictures that its certificate is for; see `stage1.certificate.stream`.
        vouched_by: see `LiveBundle.vouched_by`.
        stands_in: the engine serves only until the bundle's own one can.
        recalibrating: ids of bundles that are compiled and calibrated anew for this machine.
        standby: id of the bundle that a rollback would make live.
        leases: requests that use each generation.
        swaps: times that the live bundle was replaced.
        refusals: times that a bundle was refused.
        submitted_at: since when the live model counts, UTC; None if nothing says so.
        verdict: what the gate said last of a challenger; None if it has said nothing.
        move: what made the live bundle the store's current one, and when: `action` and `at`; None if nothing says so.
        history: the latest bundles that were wanted, newest last.
        servers: those that compute the live bundle, see `engines.engine.ServerStatus`; none where this process does.
        own_batches: batches of the live bundle that this process computed for want of a server; None where it computes
            all of them.
    """

    generation: int
    bundle: str | None
    engine: str
    policy: str
    stream: str
    vouched_by: str
    stands_in: bool
    recalibrating: tuple[str, ...]
    standby: str | None
    leases: dict[int, int]
    swaps: int
    refusals: int
    submitted_at: datetime | None
    verdict: dict[str, Any] | None
    move: dict[str, Any] | None
    history: tuple[Lifecycle, ...]
    servers: tuple[dict[str, Any], ...] = ()
    own_batches: int | None = None


class Did(NamedTuple):
    """What a follower has done; for the attributes see `Status`."""

    stands_in: bool
    recalibrating: tuple[str, ...]
    swaps: int
    refusals: int
    history: tuple[Lifecycle, ...]


def status_of(slot: BundleSlot, live: LiveBundle | None, told: Told, did: Did) -> Status:
    """The status.

    Args:
        slot: what it holds.
        live: the live bundle.
        told: what the store says.
        did: what it has done.
    """
    standby = slot.standby
    return Status(
        generation=slot.generation,
        bundle=None if live is None else live.bundle_id,
        standby=None if standby is None else standby.bundle_id,
        leases=slot.leases,
        submitted_at=told.submitted_at,
        verdict=told.verdict,
        move=told.move,
        **did._asdict(),
        **about(live),
    )


def about(live: LiveBundle | None) -> dict[str, Any]:
    """What `Status` has of a live bundle alone; nothing that is known if there is none."""
    if live is None:
        return dict.fromkeys(("engine", "policy", "stream", "vouched_by"), "")
    return {
        "engine": str(live.engine.describe()),
        "policy": live.params.status,
        "stream": live.params.stream,
        "vouched_by": live.vouched_by,
        "servers": servers_of(live.engine),
        "own_batches": own_batches(live.engine),
    }


def servers_of(engine: Engine) -> tuple[dict[str, Any], ...]:
    """The servers that compute an engine, as plain values; none where this process does."""
    return tuple(asdict(one) for one in engine.servers) if isinstance(engine, ServedElsewhere) else ()


def own_batches(engine: Engine) -> int | None:
    """Batches that this process computed for want of a server; None where it computes all of them."""
    return engine.own_batches if isinstance(engine, ServedElsewhere) else None
