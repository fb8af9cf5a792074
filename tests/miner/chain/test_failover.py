"""Several endpoints as one: who serves, when one is left, and when it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from miner.chain.failover import MOST_DOUBLED, Endpoint, FailoverChain
from miner.chain.port import ChainSnapshot, Neuron
from miner.chain.settings import ChainSettings
from miner.errors import AddressUnknown, ChainStuck, ChainUnavailable, NotRegistered, ServeRefused

HERE = {"5Ours": Neuron(uid=3)}
SETTINGS = ChainSettings(endpoint_retry_s=900.0, stuck_s=300.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    @property
    def block(self) -> int:
        """Of a chain that runs well."""
        return 1000 + int(self.now / 12)


class Node:
    """One endpoint: what it does can be changed at any time."""

    def __init__(self, name: str, block: Callable[[], int]) -> None:
        self.name = name
        self.block = block
        self.error: Exception | None = None
        self.neurons = HERE
        self.readings = 0
        self.closed = 0
        self.served: list[tuple[str, str, int]] = []

    async def snapshot(self) -> ChainSnapshot:
        self.readings += 1
        if self.error is not None:
            raise self.error
        return ChainSnapshot(self.block(), self.neurons, 0.0, self.name)

    async def block_time(self) -> float | None:
        return None

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        if self.error is not None:
            raise self.error
        self.served.append((hotkey, ip, port))

    async def close(self) -> None:
        self.closed += 1


def nodes(clock: Clock, count: int = 2) -> tuple[FailoverChain, list[Node]]:
    made = [Node(f"ws://node-{number}", lambda: clock.block) for number in range(count)]
    return FailoverChain([Endpoint(node.name, node) for node in made], SETTINGS, clock=clock), made


def reading(chain: FailoverChain, clock: Clock, after_s: float = 600.0) -> str:
    """The endpoint that the next reading comes from."""
    clock.now += after_s
    return asyncio.run(chain.snapshot()).endpoint


def test_the_first_that_answers_serves_and_the_preferred_one_is_tried_again_after_a_while() -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    assert reading(chain, clock) == preferred.name
    preferred.error = ChainUnavailable("no answer")
    with capture_logs() as logs:
        assert reading(chain, clock) == other.name
        asked = preferred.readings
        assert reading(chain, clock) == other.name
    # Ten minutes later it is still left alone, and a quarter of an hour after its failure it is asked first.
    assert preferred.readings == asked
    preferred.error = None
    assert reading(chain, clock) == preferred.name
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [
        ("chain_endpoint_failed", preferred.name),
        ("chain_endpoint_serves", other.name),
    ]
    assert logs[0]["reason"] == "no answer"
    assert (logs[1]["before"], logs[1]["preferred"]) == (preferred.name, False)


def test_the_pause_of_an_endpoint_that_keeps_failing_doubles_up_to_a_limit() -> None:
    clock = Clock()
    chain, (preferred, _) = nodes(clock)
    preferred.error = ChainUnavailable("no answer")
    asked_at: list[float] = []
    while len(asked_at) < 8:
        before = preferred.readings
        reading(chain, clock, 100.0)
        if preferred.readings > before:
            asked_at.append(clock.now)
    pauses = [later - earlier for earlier, later in pairwise(asked_at)]
    assert pauses == [900.0 * min(2**n, MOST_DOUBLED) for n in range(7)]


def test_what_keeps_failing_is_told_once() -> None:
    clock = Clock()
    chain, (preferred, _) = nodes(clock)
    preferred.error = ChainUnavailable("no answer")
    with capture_logs() as logs:
        for _ in range(50):
            reading(chain, clock)
    told = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [entry["event"] for entry in told] == ["chain_endpoint_failed", "chain_endpoint_serves"]


def test_nothing_is_given_up_before_every_endpoint_was_asked_even_those_that_failed_before() -> None:
    clock = Clock()
    chain, (first, second, third) = nodes(clock, 3)
    for node in (first, second, third):
        node.error = ChainUnavailable(f"{node.name} is silent")
    for _ in range(2):
        with pytest.raises(ChainUnavailable, match=r"none of 3 .*node-0 is silent; .*node-1 .*node-2 is silent$"):
            reading(chain, clock, 15.0)
    assert [node.readings for node in (first, second, third)] == [2, 2, 2]
    third.error = None
    assert reading(chain, clock, 15.0) == third.name


def test_a_single_endpoint_says_what_is_wrong_in_its_own_words() -> None:
    clock = Clock()
    chain, [only] = nodes(clock, 1)
    only.error = ChainUnavailable("no answer")
    with pytest.raises(ChainUnavailable, match=r"^no answer$"):
        reading(chain, clock)


def test_an_endpoint_that_is_left_or_failed_lets_go_of_its_process() -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    preferred.error = ChainUnavailable("no answer")
    reading(chain, clock)
    assert (preferred.closed, other.closed) == (1, 0)
    preferred.error = None
    reading(chain, clock, 1000.0)
    assert (preferred.closed, other.closed) == (1, 1)


def test_a_node_whose_block_stands_still_is_left_and_taken_back_when_it_has_caught_up() -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    reading(chain, clock)
    stands, preferred.block = preferred.block(), lambda: stands
    with capture_logs() as logs:
        assert reading(chain, clock, 200.0) == preferred.name
        assert reading(chain, clock, 200.0) == other.name
        assert reading(chain, clock, 1000.0) == other.name
    assert [entry["stuck"] for entry in logs if entry["event"] == "chain_endpoint_failed"] == [True, True]
    assert "block 1050" in logs[0]["reason"]
    preferred.block = other.block
    assert reading(chain, clock, 4000.0) == preferred.name


def test_a_node_that_advances_far_behind_the_others_is_not_taken() -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    reading(chain, clock)
    preferred.block = lambda: clock.block - 500
    assert reading(chain, clock) == other.name
    assert reading(chain, clock, 1000.0) == other.name


def test_a_chain_that_stands_still_everywhere_is_said_to_be_stuck() -> None:
    clock = Clock()
    chain, made = nodes(clock)
    for node in made:
        node.block = lambda: 7
    reading(chain, clock)
    with pytest.raises(ChainStuck, match="none of 2 endpoints"):
        reading(chain, clock)


def test_an_endpoint_without_neurons_is_left() -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    preferred.neurons = {}
    assert reading(chain, clock) == other.name


def test_an_address_is_published_through_the_next_endpoint_if_the_first_does_not_answer() -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    preferred.error = ChainUnavailable("no answer")
    asyncio.run(chain.serve("5Ours", "192.0.2.7", 8091))
    assert other.served == [("5Ours", "192.0.2.7", 8091)]


@pytest.mark.parametrize("refusal", [ServeRefused("rate limit"), NotRegistered("no uid"), AddressUnknown("auto")])
def test_a_refusal_is_an_answer_and_goes_to_no_other_endpoint(refusal: Exception) -> None:
    clock = Clock()
    chain, (preferred, other) = nodes(clock)
    preferred.error = refusal
    with pytest.raises(type(refusal)):
        asyncio.run(chain.serve("5Ours", "192.0.2.7", 8091))
    assert (other.served, preferred.closed) == ([], 0)


def test_closing_lets_go_of_all() -> None:
    chain, made = nodes(Clock(), 3)
    asyncio.run(chain.close())
    assert [node.closed for node in made] == [1, 1, 1]
