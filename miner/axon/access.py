"""Who may ask the miner, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from miner.axon.refusals import Forbidden, TooManyRequests
from miner.axon.settings import AccessSettings
from miner.chain.port import Neuron

log = structlog.get_logger(__name__)

# One text for every refused caller: a stranger learns nothing about the rules, and refusing costs nothing.
REFUSAL = "Forbidden. Key is blacklisted: this hotkey may not query this miner."


@dataclass(frozen=True, slots=True)
class Caller:
    """A hotkey that may ask.

    Attributes:
        hotkey: its ss58 address.
        uid: its place on the subnet, None if it is only on the list of extra hotkeys.
        priority: its stake as a share of the largest of those that may ask, in [0, 1].
    """

    hotkey: str
    uid: int | None
    priority: float = 0.0


class AccessPolicy:
    """Decides from the latest snapshot of the subnet; knows nobody before the first.

    A request passes `check` with a hotkey it only claims, and `spend` once its signature proved the claim: a stranger
    who claims a validator's hotkey cannot use up that validator's allowance.

    Args:
        settings: the rules.
        neurons: registered hotkeys, as in `update`.

    Attributes:
        qualified: how many registered hotkeys have the permit and the stake that the rules ask for.
    """

    def __init__(self, settings: AccessSettings, neurons: Mapping[str, Neuron] | None = None) -> None:
        self._settings = settings
        self.qualified = 0
        self._admitted: dict[str, Caller] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._neurons: Mapping[str, Neuron] = {}
        self.update(neurons or {})

    @property
    def admitted(self) -> int:
        """How many hotkeys may ask."""
        return len(self._admitted)

    def update(self, neurons: Mapping[str, Neuron]) -> None:
        """Replace what is known of the subnet, all at once.

        Args:
            neurons: registered hotkeys (ss58 addresses) and what is known of them.
        """
        self._neurons = neurons
        admitted = {hotkey: Caller(hotkey, None) for hotkey in self._settings.extra_hotkeys}
        qualified = {h: neuron for h, neuron in neurons.items() if h in admitted or self._qualifies(neuron)}
        self.qualified = sum(self._qualifies(neuron) for neuron in neurons.values())
        largest = max((neuron.stake for neuron in qualified.values()), default=0.0)
        for hotkey, neuron in qualified.items():
            admitted[hotkey] = Caller(hotkey, neuron.uid, neuron.stake / largest if largest > 0 else 0.0)
        self._buckets = {hotkey: bucket for hotkey, bucket in self._buckets.items() if hotkey in admitted}
        self._admitted = admitted

    def change(self, settings: AccessSettings) -> None:
        """Decide by other rules from the next request on; who has used up an allowance has not got it back."""
        self._settings = settings
        self.update(self._neurons)

    def check(self, hotkey: str) -> Caller:
        """Look a hotkey up.

        Raises:
            Forbidden: it may not ask; the message is the same for everyone.
        """
        caller = self._admitted.get(hotkey)
        if caller is None:
            raise Forbidden(REFUSAL)
        return caller

    def spend(self, caller: Caller, now_s: float) -> None:
        """Take one request from a proved caller's allowance.

        Args:
            caller: who asks.
            now_s: a clock that never goes back, in seconds.

        Raises:
            TooManyRequests: nothing is left of it.
        """
        bucket = self._buckets.setdefault(caller.hotkey, _Bucket(float(self._settings.burst), now_s))
        if not bucket.take(now_s, self._settings.requests_per_s, self._settings.burst):
            limit = f"{self._settings.requests_per_s:g} requests a second, {self._settings.burst} at once"
            raise TooManyRequests(f"Too many requests from this hotkey: the limit is {limit}.")

    def _qualifies(self, neuron: Neuron) -> bool:
        permitted = neuron.validator_permit or not self._settings.require_validator_permit
        return permitted and neuron.stake >= self._settings.min_stake


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at_s: float

    def take(self, now_s: float, rate_per_s: float, burst: int) -> bool:
        elapsed_s = max(0.0, now_s - self.filled_at_s)
        self.tokens = min(float(burst), self.tokens + elapsed_s * rate_per_s)
        self.filled_at_s = now_s
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
