from __future__ import annotations

import asyncio
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from miner.chain.offline import ChainFile, OfflineChain
from miner.chain.port import ChainSnapshot, Neuron
from miner.chain.worker import Call, Publication, Reply, ServeResult, Worker, neurons_of, serve_calls
from miner.errors import ChainUnavailable, NotRegistered

NEURONS = {"5Validator": Neuron(uid=1, validator_permit=True, stake=50_000.0), "5Miner": Neuron(uid=2, incentive=0.25)}


class TestSnapshot:
    def test_finds_our_own_neuron(self):
        assert ChainSnapshot(9, NEURONS, 0.0).neuron("5Miner").uid == 2

    def test_says_what_to_do_if_we_are_not_there(self):
        with pytest.raises(NotRegistered, match=r"5Else is not among the 2 neurons .* block 9; register it"):
            ChainSnapshot(9, NEURONS, 0.0).neuron("5Else")

    def test_cannot_be_changed(self):
        neurons = dict(NEURONS)
        snapshot = ChainSnapshot(9, neurons, 0.0)
        neurons.clear()
        assert len(snapshot.neurons) == 2
        with pytest.raises(TypeError):
            snapshot.neurons["5Else"] = Neuron(uid=3)

    @pytest.mark.parametrize("wrong", [{"uid": -1}, {"uid": 1, "stake": float("nan")}, {"uid": 1, "incentive": 2}])
    def test_neurons_are_checked(self, wrong):
        with pytest.raises(ValidationError):
            Neuron(**wrong)


class TestOfflineChain:
    def test_from_memory(self):
        async def scenario():
            chain = OfflineChain(NEURONS, block=5, clock=lambda: 77.0)
            before = await chain.snapshot()
            await chain.serve("5Miner", "192.0.2.7", 8091)
            snapshot = await chain.snapshot()
            await chain.close()
            return before, snapshot

        before, snapshot = asyncio.run(scenario())
        assert (before.block, dict(before.neurons), before.fetched_at) == (5, NEURONS, 77.0)
        assert snapshot.neurons["5Miner"].axon == ("192.0.2.7", 8091)
        assert snapshot.neurons["5Validator"].axon is None

    def test_from_a_file_that_changes(self, tmp_path):
        path = tmp_path / "chain.json"
        ChainFile(block=1, neurons=NEURONS).write(path)
        chain = OfflineChain.from_file(path)
        assert asyncio.run(chain.snapshot()).neurons == NEURONS
        ChainFile(block=2).write(path)
        assert asyncio.run(chain.snapshot()).block == 2

    def test_a_machine_without_a_thread_left_has_no_reading_and_goes_on(self, tmp_path, monkeypatch):
        path = tmp_path / "chain.json"
        ChainFile(block=1, neurons=NEURONS).write(path)
        chain = OfflineChain.from_file(path)

        def none_left(_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("threading.Thread.start", none_left)
        with pytest.raises(ChainUnavailable, match="can't start new thread"):
            asyncio.run(chain.snapshot())

    @pytest.mark.parametrize(
        "content",
        [
            None,
            "{",
            '{"schema_version": 2}',
            '{"schema_version": 1, "neurons": {"5Key": {}}}',
            '{"schema_version": 1, "x": 1}',
        ],
    )
    def test_an_unusable_file_is_named(self, tmp_path, content):
        path = tmp_path / "chain.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ChainUnavailable, match=r"chain\.json: "):
            OfflineChain.from_file(path)


PUBLICATION = Publication(hotkey="5Miner", wallet=("miner", "one", "wallets"), ip="192.0.2.7", port=8091)


class FakeMetagraph:
    hotkeys = ("5Validator", "5Miner")
    uids = np.array([1, 2])
    validator_permit = np.array([True, False])
    S = np.array([50_000.0, 0.5], dtype=np.float32)
    I = np.array([0.0, 0.25], dtype=np.float32)  # noqa: E741  the SDK's name
    last_update = np.array([10, 0])
    axons = (SimpleNamespace(ip="0.0.0.0", port=0), SimpleNamespace(ip="2001:db8:0::7", port=8091))
    block = np.array(123)


class FakeSdk:
    """Plays one situation; counts how often its connection is dropped."""

    def __init__(self, *, uid=4, result=None, broken=None):
        self._uid, self._result, self._broken = uid, result, broken
        self.published, self.resets = [], 0

    def metagraph(self):
        if self._broken is not None:
            raise self._broken
        return FakeMetagraph()

    def block_time(self):
        return 1.7e9

    def uid(self, hotkey):
        assert hotkey == PUBLICATION.hotkey
        return self._uid

    def publish(self, publication):
        self.published.append(publication)
        return self._result

    def external_ip(self):
        return "192.0.2.99"

    def reset(self):
        self.resets += 1
        raise OSError("closing fails too")


class TestWorker:
    SERVE = Call(publication=PUBLICATION)

    def test_snapshot(self):
        reply = Worker(FakeSdk()).answer(Call())
        assert (reply.failure, reply.block) == (None, 123)
        assert reply.neurons == neurons_of(FakeMetagraph)
        validator, miner = reply.neurons["5Validator"], reply.neurons["5Miner"]
        assert validator == Neuron(uid=1, validator_permit=True, stake=50_000.0, incentive=0.0, last_update=10)
        assert miner == Neuron(
            uid=2, validator_permit=False, stake=0.5, incentive=0.25, last_update=0, axon=("2001:db8::7", 8091)
        )

    def test_the_address_that_the_internet_sees_is_published_where_it_is_to_be_found(self):
        sdk = FakeSdk(result=ServeResult(success=True, message="", unreachable=False))
        asked = Call(publication=PUBLICATION.model_copy(update={"ip": "auto"}))
        assert Worker(sdk).answer(asked) == Reply()
        assert sdk.published == [PUBLICATION.model_copy(update={"ip": "192.0.2.99"})]

    def test_an_address_that_nobody_knows_is_no_fault_of_the_endpoint(self):
        class Alone(FakeSdk):
            def external_ip(self):
                raise ConnectionError("no service says it")

        sdk = Alone()
        asked = Call(publication=PUBLICATION.model_copy(update={"ip": "auto"}))
        reply = Worker(sdk).answer(asked)
        assert (reply.failure, reply.message) == ("no_address", "external_ip is auto: no service says it")
        assert (sdk.published, sdk.resets) == ([], 0)

    def test_whatever_the_sdk_raises_becomes_a_failure_and_a_new_connection(self):
        sdk = FakeSdk(broken=LookupError("odd"))
        reply = Worker(sdk).answer(Call())
        assert (reply.failure, reply.message) == ("unavailable", "LookupError: odd")
        assert sdk.resets == 1

    @pytest.mark.parametrize(("broken", "level"), [(LookupError("odd"), "warning"), (ConnectionError(), "debug")])
    def test_the_trace_of_a_network_that_fails_fills_no_log(self, broken, level):
        with capture_logs() as logs:
            Worker(FakeSdk(broken=broken)).answer(Call())
        assert [entry["log_level"] for entry in logs if entry["event"] == "chain_call_failed"] == [level]

    def test_serve(self):
        sdk = FakeSdk(result=ServeResult(success=True, message="", unreachable=False))
        assert Worker(sdk).answer(self.SERVE) == Reply()
        assert sdk.published == [PUBLICATION]

    def test_serve_without_a_uid(self):
        sdk = FakeSdk(uid=None)
        assert Worker(sdk).answer(self.SERVE).failure == "not_registered"
        assert sdk.published == []

    def test_serve_refused_by_the_chain(self):
        sdk = FakeSdk(result=ServeResult(success=False, message="rate limit", unreachable=False))
        assert Worker(sdk).answer(self.SERVE) == Reply(failure="serve_refused", message="rate limit")
        assert sdk.resets == 0

    @pytest.mark.parametrize(("number", "meaning"), [(11, "chain.external_ip"), (12, "ten minutes"), (99, "Custom")])
    def test_a_refusal_by_number_is_told_in_words(self, number, meaning):
        said = f"Subtensor returned: Custom error: {number} | Please consult the docs"
        sdk = FakeSdk(result=ServeResult(success=False, message=said, unreachable=False))
        reply = Worker(sdk).answer(self.SERVE)
        assert said in reply.message
        assert meaning in reply.message

    def test_serve_lost_on_the_way(self):
        sdk = FakeSdk(result=ServeResult(success=False, message="reset by peer", unreachable=True))
        assert Worker(sdk).answer(self.SERVE) == Reply(failure="unavailable", message="reset by peer")
        assert sdk.resets == 1

    def test_one_line_in_one_line_out(self):
        replies = io.BytesIO()
        serve_calls([b"{}\n"] * 2, replies, Worker(FakeSdk()))
        lines = replies.getvalue().splitlines()
        assert [json.loads(line)["block"] for line in lines] == [123, 123]

    def test_a_parent_of_another_kind_is_not_served(self):
        with pytest.raises(ValidationError):
            serve_calls([b'{"transfer": 1}\n'], io.BytesIO(), Worker(FakeSdk()))
