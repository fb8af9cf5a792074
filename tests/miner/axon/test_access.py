from __future__ import annotations

import pytest

from miner.axon.access import REFUSAL, AccessPolicy, Caller
from miner.axon.refusals import Forbidden, TooManyRequests
from miner.axon.settings import AccessSettings
from miner.chain.port import Neuron

FRIEND = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
MINER = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
NEURONS = {
    "5Validator": Neuron(uid=1, validator_permit=True, stake=50_000.0),
    "5Small": Neuron(uid=2, validator_permit=True, stake=10.0),
    MINER: Neuron(uid=3, validator_permit=False, stake=90_000.0),
}


def admitted(policy: AccessPolicy) -> set[str]:
    return {hotkey for hotkey in (*NEURONS, "5Stranger", FRIEND, "") if may_ask(policy, hotkey)}


def may_ask(policy: AccessPolicy, hotkey: str) -> bool:
    try:
        return policy.check(hotkey).hotkey == hotkey
    except Forbidden:
        return False


def spendable(policy: AccessPolicy, now_s: float, hotkey: str = "5Validator") -> int:
    caller = policy.check(hotkey)
    count = 0
    try:
        while True:
            policy.spend(caller, now_s)
            count += 1
    except TooManyRequests:
        return count


def test_those_who_qualify_are_counted_without_those_who_are_only_listed() -> None:
    policy = AccessPolicy(AccessSettings(min_stake=1000.0, extra_hotkeys=frozenset({FRIEND, MINER})), NEURONS)
    assert (policy.qualified, policy.admitted) == (1, 3)
    policy.update({MINER: NEURONS[MINER]})
    assert (policy.qualified, policy.admitted) == (0, 2)


class TestCheck:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (AccessSettings(), {"5Validator", "5Small"}),
            (AccessSettings(min_stake=1000.0), {"5Validator"}),
            (AccessSettings(require_validator_permit=False), {"5Validator", "5Small", MINER}),
            (AccessSettings(require_validator_permit=False, min_stake=1000.0), {"5Validator", MINER}),
            (AccessSettings(min_stake=1e9, extra_hotkeys=frozenset({FRIEND, MINER})), {FRIEND, MINER}),
        ],
    )
    def test_rules(self, settings, expected):
        policy = AccessPolicy(settings, NEURONS)
        assert admitted(policy) == expected
        assert policy.admitted == len(expected)

    def test_tells_who_is_who(self):
        policy = AccessPolicy(AccessSettings(extra_hotkeys=frozenset({FRIEND, MINER})), NEURONS)
        assert policy.check("5Validator") == Caller("5Validator", 1, priority=50 / 90)
        assert policy.check(MINER) == Caller(MINER, 3, priority=1.0)
        assert policy.check(FRIEND) == Caller(FRIEND, None, priority=0.0)

    def test_without_any_stake_nobody_goes_first(self):
        policy = AccessPolicy(AccessSettings(), {"5New": Neuron(uid=1, validator_permit=True, stake=0.0)})
        assert policy.check("5New").priority == 0.0

    def test_tells_every_refused_caller_the_same(self):
        policy = AccessPolicy(AccessSettings(min_stake=1000.0), NEURONS)
        for hotkey in ("5Small", MINER, "5Stranger", ""):
            with pytest.raises(Forbidden) as refusal:
                policy.check(hotkey)
            assert str(refusal.value) == REFUSAL

    def test_knows_nobody_before_the_first_snapshot(self):
        assert admitted(AccessPolicy(AccessSettings())) == set()

    def test_a_new_snapshot_replaces_the_old_one(self):
        policy = AccessPolicy(AccessSettings(), NEURONS)
        policy.update({"5Stranger": Neuron(uid=9, validator_permit=True)})
        assert admitted(policy) == {"5Stranger"}


class TestSpend:
    SETTINGS = AccessSettings(requests_per_s=2.0, burst=5)

    def test_allows_a_burst_then_a_rate(self):
        policy = AccessPolicy(self.SETTINGS, NEURONS)
        assert spendable(policy, 100.0) == 5
        assert spendable(policy, 100.4) == 0
        assert spendable(policy, 101.5) == 3
        assert spendable(policy, 1e6) == 5

    def test_one_hotkey_does_not_use_up_anothers_allowance(self):
        policy = AccessPolicy(self.SETTINGS, NEURONS)
        assert spendable(policy, 0.0, "5Validator") == 5
        assert spendable(policy, 0.0, "5Small") == 5

    def test_survives_a_snapshot_and_ends_with_the_registration(self):
        policy = AccessPolicy(self.SETTINGS, NEURONS)
        assert spendable(policy, 0.0) == 5
        policy.update(NEURONS)
        assert spendable(policy, 0.0) == 0
        policy.update({})
        policy.update(NEURONS)
        assert spendable(policy, 0.0) == 5

    def test_a_clock_that_steps_back_gives_nothing(self):
        policy = AccessPolicy(self.SETTINGS, NEURONS)
        assert spendable(policy, 100.0) == 5
        assert spendable(policy, 50.0) == 0

    def test_says_what_the_limit_is(self):
        policy = AccessPolicy(AccessSettings(requests_per_s=0.5, burst=1), NEURONS)
        caller = policy.check("5Validator")
        policy.spend(caller, 0.0)
        with pytest.raises(TooManyRequests, match=r"0\.5 requests a second, 1 at once"):
            policy.spend(caller, 0.0)


class TestChange:
    def test_other_rules_hold_at_once_for_the_subnet_that_is_known(self):
        policy = AccessPolicy(AccessSettings(), NEURONS)
        policy.change(AccessSettings(min_stake=1000.0, extra_hotkeys=frozenset({FRIEND})))
        assert admitted(policy) == {"5Validator", FRIEND}

    def test_gives_no_allowance_back(self):
        policy = AccessPolicy(AccessSettings(burst=3), NEURONS)
        assert spendable(policy, 0.0) == 3
        policy.change(AccessSettings(burst=3, min_stake=1.0))
        assert spendable(policy, 0.0) == 0
