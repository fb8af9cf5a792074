"""What a canary counts of the requests that were answered."""

from __future__ import annotations

from engines.live.swap.bands import Answered
from engines.live.swap.canary import Canary
from miner.answering.record import RequestRecord
from stage1.decisions import Action
from stage2_bridge.client import Outcome

# It says nothing of the bundle that no caller waited, or that the image is none.
COUNTED = frozenset({"answered", "stage1_failed", "stage1_late"})


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
        answered = Answered(record.result != "answered", deferred, fell_back)
        self._canary.note(record.generation, record.image_sha256, answered)
