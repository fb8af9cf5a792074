"""Watching the chain: what changes for us is told, and what fails takes nobody's access."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from miner.chain.port import AxonAddress, ChainSnapshot, Neuron
from miner.chain.settings import ChainSettings
from miner.chain.watch import FIRST_RETRY_S, ChainWatch
from miner.errors import ChainError, ChainStuck, ChainUnavailable, NotRegistered, ServeRefused

OURS, VALIDATOR = "5Ours", "5Validator"
ADDRESS = AxonAddress("192.0.2.7", 8091)
FOUND = {OURS: Neuron(uid=3, axon=ADDRESS), VALIDATOR: Neuron(uid=1, validator_permit=True)}
HERE = {OURS: Neuron(uid=3), VALIDATOR: FOUND[VALIDATOR]}
GONE = {VALIDATOR: FOUND[VALIDATOR]}
Reading = dict[str, Neuron] | Exception
Logs = list[MutableMapping[str, Any]]


class Chain:
    """Says what it is told to say, and has a clock that only pauses move.

    Attributes:
        readings: what is read, one after the other; the last one again and again.
        refusals: how the next publications fail.
        published: what was published, and when.
        read_at: when it was read.
    """

    def __init__(self, readings: Sequence[Reading] = (FOUND,), refusals: Sequence[ChainError] = ()) -> None:
        self.readings = list(readings)
        self.refusals = list(refusals)
        self.published: list[tuple[float, str, str, int]] = []
        self.tries: list[float] = []
        self.read_at: list[float] = []
        self.now = 0.0

    async def snapshot(self) -> ChainSnapshot:
        self.read_at.append(self.now)
        reading = self.readings[0] if len(self.readings) == 1 else self.readings.pop(0)
        if isinstance(reading, Exception):
            raise reading
        return ChainSnapshot(int(self.now), reading, self.now, "ws://node")

    async def block_time(self) -> float | None:
        return None

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        self.tries.append(self.now)
        if self.refusals:
            raise self.refusals.pop(0)
        self.published.append((self.now, hotkey, ip, port))

    async def close(self) -> None:
        raise NotImplementedError


class Watched:
    """A watch that runs for some time in an instant.

    Attributes:
        logs: what it told.
        updates: how many neurons each reading had that it handed on.
        watch: it.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        first: dict[str, Neuron] = FOUND,
        address: AxonAddress | None = ADDRESS,
        admitted: int = 1,
        hours: float = 3.0,
        fetched_at: float = 0.0,
        first_at: float | None = None,
    ) -> None:
        self.updates: list[int] = []
        self.logs: Logs = []
        self.chain = chain
        self.end_s = hours * 3600

        def update(snapshot: ChainSnapshot) -> int:
            self.updates.append(len(snapshot.neurons))
            return admitted

        self.watch = ChainWatch(
            chain,
            ChainSettings(),
            {OURS: address},
            first=ChainSnapshot(0, first, fetched_at, "ws://node"),
            update=update,
            first_at=first_at,
            clock=lambda: chain.now,
        )

    async def _pause(self, seconds: float) -> None:
        self.chain.now += seconds
        if self.chain.now > self.end_s:
            raise asyncio.CancelledError

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Watched:
        monkeypatch.setattr("miner.chain.watch.asyncio.sleep", self._pause)
        with capture_logs() as logs:
            try:
                with pytest.raises(asyncio.CancelledError):
                    asyncio.run(self.watch.run())
            finally:
                self.logs = logs
        return self

    def events(self, *levels: str) -> list[str]:
        return [entry["event"] for entry in self.logs if entry["log_level"] in levels]


def test_what_was_read_before_a_slow_start_is_as_old_as_it_is_and_read_again_when_that_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = Chain()
    chain.now = 5000.0
    watched = Watched(chain, first_at=20.0)
    assert watched.watch.status()["age_s"] == 4980
    assert not watched.watch.status()["fresh"]
    watched.run(monkeypatch)
    assert chain.read_at[0] == 5000.0


class TestAddress:
    def test_what_the_chain_has_already_is_not_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain()).run(monkeypatch)
        assert watched.chain.tries == []
        assert watched.watch.status()["addresses"] == {OURS: "published"}

    def test_it_is_published_at_the_start_and_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain(), first=HERE).run(monkeypatch)
        assert watched.chain.published == [(0.0, OURS, *ADDRESS)]
        assert watched.events("warning", "error") == []
        assert [name for name in watched.events("info") if "metagraph" not in name] == [
            "announced",
            "address_confirmed",
        ]

    @pytest.mark.parametrize(
        "refusal", [ChainUnavailable("no answer"), ServeRefused("rate limit"), NotRegistered("not yet")]
    )
    def test_a_failure_at_the_start_is_tried_again_at_ever_longer_intervals(
        self, monkeypatch: pytest.MonkeyPatch, refusal: ChainError
    ) -> None:
        watched = Watched(Chain([HERE] * 8 + [FOUND], [refusal] * 9), first=HERE, hours=12).run(monkeypatch)
        pauses = [later - earlier for earlier, later in zip(watched.chain.tries, watched.chain.tries[1:], strict=False)]
        assert pauses[:5] == [30.0, 60.0, 120.0, 240.0, 480.0]
        # The ninth reading shows it: somebody else, or a publication whose answer was lost, was successful.
        assert sum(pauses) < 9 * 600
        assert watched.watch.status()["addresses"] == {OURS: "published"}
        assert watched.events("error") == ["not_announced"] * len(watched.chain.tries)

    def test_a_failure_that_lasts_is_told_every_hour_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain([HERE], [ServeRefused("no")] * 100), first=HERE, hours=24).run(monkeypatch)
        assert len(watched.events("error")) == len(watched.chain.tries) <= 7 + 24
        told = next(entry for entry in watched.logs if entry["event"] == "not_announced")
        assert told["reason"] == "no"
        assert "tried again in 30 s" in told["consequence"]

    def test_a_reading_that_lags_behind_the_publication_sends_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chain = Chain([HERE, FOUND])
        watched = Watched(chain, first=HERE)
        watched.watch._settings = ChainSettings(refresh_s=60)
        watched.run(monkeypatch)
        assert len(chain.tries) == 1

    def test_an_address_that_the_chain_loses_is_published_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chain = Chain([FOUND, HERE, FOUND])
        watched = Watched(chain).run(monkeypatch)
        assert [at for at, *_ in chain.published] == [1200.0]
        assert watched.events("warning") == ["address_not_on_chain"]

    def test_a_hotkey_that_was_gone_is_announced_again_once_it_is_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chain = Chain([FOUND, GONE, GONE, HERE, FOUND])
        watched = Watched(chain).run(monkeypatch)
        assert watched.events("error") == ["not_registered", "not_registered"]
        assert watched.events("warning") == ["registered_again", "address_not_on_chain"]
        assert [at for at, *_ in chain.published] == [2400.0]

    def test_a_hotkey_that_is_not_registered_at_the_start_is_told_and_announced_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain([GONE, HERE, FOUND])
        watched = Watched(chain, first=GONE).run(monkeypatch)
        assert watched.events("error") == ["not_registered", "not_registered"]
        assert [at for at, *_ in chain.published] == [1200.0]

    def test_an_address_that_the_internet_tells_is_published_once_and_then_known_by_its_port(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watched = Watched(Chain(), address=AxonAddress("auto", ADDRESS.port)).run(monkeypatch)
        assert [at for at, *_ in watched.chain.published] == [0.0]
        assert watched.events("warning", "error") == []
        assert watched.watch.status()["addresses"] == {OURS: "published"}

    def test_a_miner_that_publishes_nothing_sends_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain([HERE]), first=HERE, address=None).run(monkeypatch)
        assert watched.chain.tries == []
        assert watched.watch.status()["addresses"] == {}


class TestReading:
    def test_an_empty_metagraph_takes_nobodys_access(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain([{}, FOUND]), hours=0.3).run(monkeypatch)
        assert watched.updates == [2, 2]
        assert watched.events("warning") == ["metagraph_stale"]
        assert "no neurons" in watched.logs[-3]["reason"]

    def test_a_chain_that_stays_away_becomes_an_error_and_ends_the_miner(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain([ChainUnavailable("no answer")]), hours=100)
        with pytest.raises(ChainUnavailable, match=r"not been read for 24\.\d hours, more than"):
            watched.run(monkeypatch)
        assert watched.events("warning") == ["metagraph_stale"] * 2
        assert 86_400 < watched.logs[-1]["age_s"] <= 87_000

    def test_a_wall_clock_that_is_set_right_after_a_reading_ends_no_miner(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A machine without a battery starts in the past; one reading that failed then ended the miner."""
        watched = Watched(Chain([ChainUnavailable("no answer")]), hours=0.3, fetched_at=-10 * 86_400.0)
        watched.run(monkeypatch)
        assert watched.watch.status()["fresh"] is True

    def test_after_a_failure_it_is_read_sooner_and_then_more_and_more_seldom(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain([ChainUnavailable("no answer")] * 7 + [FOUND])
        watched = Watched(chain).run(monkeypatch)
        pauses = [later - earlier for earlier, later in zip([0.0, *chain.read_at], chain.read_at, strict=False)]
        assert pauses[:9] == [600.0, *(FIRST_RETRY_S * 2**n for n in range(6)), 600.0, 600.0]
        assert watched.events("info").count("metagraph_recovered") == 1

    def test_a_chain_that_stands_still_is_told_as_such(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain([ChainStuck("block 7")]), hours=0.2).run(monkeypatch)
        assert watched.watch.status()["stuck"] is True
        assert [entry["stuck"] for entry in watched.logs if entry["event"] == "metagraph_stale"] == [True] * 4

    def test_the_status_says_what_is_known_and_from_where(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain(), hours=0.2).run(monkeypatch)
        assert watched.watch.status() == {
            "endpoint": "ws://node",
            "block": 600,
            "neurons": 2,
            "fetched_at": 600.0,
            "age_s": 600.0,
            "fresh": True,
            "failures": 0,
            "failures_total": 0,
            "stuck": False,
            "registered": {OURS: True},
            "addresses": {OURS: "published"},
            "conditions": [],
            "emission": None,
            "incentive": {OURS: None},
            "uids": {OURS: 3},
        }

    def test_the_status_says_who_earns_and_what_we_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        neurons = {OURS: Neuron(uid=3, incentive=0.1), "5Other": Neuron(uid=4, incentive=0.3)}
        told = Watched(Chain([neurons]), hours=0.2).run(monkeypatch).watch.status()
        assert told["emission"] == {"uid": 4, "share": pytest.approx(0.75), "paid": 2, "burned": False}
        assert told["incentive"] == {OURS: 0.1}

    @pytest.mark.parametrize(("age_s", "fresh"), [(0.0, True), (1860.0, True), (1861.0, False)])
    def test_what_is_known_is_fresh_for_the_time_of_three_readings(self, age_s: float, fresh: bool) -> None:
        watched = Watched(Chain())
        watched.chain.now = age_s
        assert watched.watch.status()["fresh"] is fresh


class TestConditions:
    def test_that_nobody_may_ask_is_told_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        watched = Watched(Chain(), admitted=0).run(monkeypatch)
        assert watched.events("warning") == ["no_validator_admitted"]
        assert watched.watch.status()["conditions"] == ["no_validator_admitted"]
        [told] = [entry for entry in watched.logs if entry["event"] == "no_validator_admitted"]
        assert (told["with_permit"], told["largest_stake"]) == (1, 0.0)

    def test_that_one_uid_has_all_of_the_incentive_is_told_when_it_begins_and_ends(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        burned = {**FOUND, "5Owner": Neuron(uid=0, incentive=1.0), "5Miner": Neuron(uid=9, incentive=0.0)}
        spread = {**FOUND, "5Owner": Neuron(uid=0, incentive=0.5), "5Miner": Neuron(uid=9, incentive=0.5)}
        watched = Watched(Chain([burned, burned, spread])).run(monkeypatch)
        [told] = [entry for entry in watched.logs if entry["event"] == "emission_burned"]
        assert (told["uid"], told["share"], told["log_level"]) == (0, 1.0, "warning")
        assert [entry["condition"] for entry in watched.logs if entry["event"] == "condition_over"] == [
            "emission_burned"
        ]
        assert watched.watch.status()["conditions"] == []

    def test_that_we_have_all_of_the_incentive_is_no_trouble(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = {**FOUND, OURS: Neuron(uid=3, axon=ADDRESS, incentive=1.0)}
        assert Watched(Chain([alone])).run(monkeypatch).events("warning") == []

    def test_that_no_miner_has_any_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing = {**FOUND, "5Miner": Neuron(uid=9, incentive=0.0)}
        assert Watched(Chain([nothing])).run(monkeypatch).events("warning") == ["no_incentive"]
