"""States of the subnet in which a miner earns nothing though it works, told when they begin and when they end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import structlog

from miner.chain.port import Neuron

log = structlog.get_logger(__name__)

# One uid with so much of the incentive is taken for an owner who burns it.
BURN_SHARE = 0.95


class Incentive(NamedTuple):
    """How the miners' emission is spread.

    Attributes:
        uid: who has most of it.
        share: how much of it that is, in (0, 1].
        paid: how many neurons have some.
    """

    uid: int
    share: float
    paid: int

    @property
    def burned(self) -> bool:
        """So much is with one uid that mining earns nothing."""
        return self.share >= BURN_SHARE


def incentive_of(neurons: Mapping[str, Neuron]) -> Incentive | None:
    """How the miners' emission is spread; None if nobody has any.

    Args:
        neurons: registered hotkeys and what is known of them.
    """
    known = {neuron.uid: neuron.incentive for neuron in neurons.values() if neuron.incentive}
    if not known:
        return None
    uid, largest = max(known.items(), key=lambda item: item[1])
    return Incentive(uid, largest / sum(known.values()), len(known))


class Conditions:
    """Compares each reading with the one before.

    Args:
        ours: our hotkeys, ss58 addresses.
    """

    def __init__(self, ours: Collection[str]) -> None:
        self._ours = frozenset(ours)
        self._held: dict[str, None] = {}

    @property
    def names(self) -> list[str]:
        """What holds at present, the oldest first."""
        return list(self._held)

    def compare(self, neurons: Mapping[str, Neuron], admitted: int) -> None:
        """Take a new reading.

        Args:
            neurons: registered hotkeys and what is known of them.
            admitted: how many of them may ask us.
        """
        permitted = [neuron.stake for hotkey, neuron in neurons.items() if neuron.validator_permit]
        self._tell(
            "no_validator_admitted",
            not admitted,
            consequence="every request is refused",
            remedy="lower access.min_stake, or check chain.netuid and the network",
            with_permit=len(permitted),
            largest_stake=round(max(permitted, default=0.0), 1),
        )
        incentive = incentive_of(neurons)
        ours = {neurons[hotkey].uid for hotkey in self._ours if hotkey in neurons}
        self._tell(
            "emission_burned",
            incentive is not None and incentive.burned and incentive.uid not in ours,
            consequence="mining earns nothing at present: the weights of the validators are with one uid",
            remedy="none on this side; ask the owner of the subnet, and weigh whether the miner should run",
            uid=incentive and incentive.uid,
            share=incentive and round(incentive.share, 4),
        )
        self._tell(
            "no_incentive",
            incentive is None and any(neuron.incentive is not None for neuron in neurons.values()),
            consequence="mining earns nothing at present: no miner has any incentive",
            remedy="none on this side; ask the owner of the subnet, and weigh whether the miner should run",
        )

    def _tell(self, name: str, holds: bool, **facts: object) -> None:
        if holds and name not in self._held:
            log.warning(name, **facts)
            self._held[name] = None
        elif not holds and name in self._held:
            log.info("condition_over", condition=name)
            del self._held[name]
