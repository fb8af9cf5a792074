"""What a canary counts of the requests that were answered."""

from __future__ import annotations

from engines.live.batcher import Batcher
from engines.live.settings import CanarySettings
from engines.live.swap.bands import Answered
from engines.live.swap.canary import Canary
from engines.live.swap.follower import StoreFollower
from engines.machine.clock import utc_now
from engines.store.store import Store
from miner.answering.record import RequestRecord
from miner.events.canary_event import ruling_event
from miner.events.event import EventSink
from stage1.decisions import Action
from stage2_bridge.client import Outcome

# It says nothing of the bundle that no caller waited, or that the image is none.
COUNTED = frozenset({"answered", "stage1_failed", "stage1_late"})


def open_canary(
    settings: CanarySettings, store: Store, follower: StoreFollower, batcher: Batcher, events: EventSink
) -> Canary:
    """The canary of a miner.

    Args:
        settings: how it watches.
        store: of the bundles.
        follower: whose swaps it watches, and which rolls back.
        batcher: of the miner.
        events: told of each ruling.
    """
    canary = Canary(
        settings,
        store=store,
        slot=follower.slot,
        batcher=batcher,
        roll_back=lambda bundle, why: follower.give_up(bundle, why, now=utc_now()),
        tell=lambda ruling: events.event(ruling_event(ruling)),
    )
    follower.on_live = canary.begin
    return canary


class LiveRates:
    """An observer of answers that tells a canary.

    Args:
        canary: told of each.
    """

    def __init__(self, canary: Canary) -> None:
        self._canary = canary

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer.on_answer`."""
        if record.result not in COUNTED:
            return
        deferred = record.action is Action.DEFER
        fell_back = deferred and record.stage2 not in {None, Outcome.ABSENT, Outcome.ANSWERED}
        # Caution is no property of a bundle: that of the one before may have been tightened, and so may this one.
        answered = Answered(record.result != "answered", deferred and not record.held_back, fell_back)
        self._canary.note(record.generation, record.image_sha256, answered)
