"""Stage-1 that servers compute: who is asked, what a failure costs, and who may not answer at all."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.engine import ServedElsewhere
from engines.errors import BundleRefused, InferenceError, NotThereYet, ParityError
from engines.live.load.load_bundle import LiveBundle, check_bundle, load_checked
from engines.live.remote.engine import RemoteEngine
from engines.live.remote.last_resort import LastResort
from engines.live.remote.opener import RemoteEngines
from engines.live.remote.seat import Seat
from engines.live.remote.settings import RemoteSettings
from engines.remote.bundle_version import version_of
from engines.remote.protocol_app import Arrays
from engines.spec import REFERENCE
from engines.store.bundle import Provenance
from engines.store.file_names import ENGINE, GOLDEN
from engines.store.golden import read_golden, write_golden
from engines.store.store import Store
from stage1.preprocess import Pixels
from tests.support.stage1_servers import Change, Running, Server, nan, running, start
from tests.support.stage2_servers import Asked, Fake, as_json, served

MOST = 4
DEADLINE_S = 60.0
Publish = Callable[..., str]


@pytest.fixture
def bundle(store: Store, publish: Publish) -> Path:
    return store.path(publish("a"))


def settings(**changes: Any) -> RemoteSettings:
    return RemoteSettings(**({"look_s": 0.05, "timeout_s": 5.0, "last_resort": "never"} | changes))


@contextmanager
def opener(urls: list[str], **changes: Any) -> Iterator[RemoteEngines]:
    made = RemoteEngines(urls, settings(**changes), most=MOST)
    try:
        yield made
    finally:
        made.close()


def load(opened: RemoteEngines, bundle: Path) -> LiveBundle:
    checked = check_bundle(bundle)
    return load_checked(
        checked, lambda: opened.open(REFERENCE, bundle / ENGINE), as_certified=False, most=MOST, memory=lambda: None
    )


@contextmanager
def loaded(bundle: Path, servers: list[Server], **changes: Any) -> Iterator[tuple[RemoteEngine, list[Running]]]:
    with running(*servers) as up, opener([one.url for one in up], **changes) as opened:
        live = load(opened, bundle)
        assert isinstance(live.engine, RemoteEngine)
        yield live.engine, up
        live.close()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def server_of(bundle: Path, **changes: Any) -> Server:
    server = Server(**changes)
    server.hold(bundle)
    return server


def images(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8)


def states(engine: RemoteEngine) -> list[str]:
    return [one.state for one in engine.servers]


class TestAnswers:
    def test_are_those_of_the_engine_of_the_bundle(self, bundle: Path) -> None:
        server = server_of(bundle)
        [own] = server.engines.values()
        with loaded(bundle, [server]) as (engine, _):
            found, expected = engine.infer(images(3)), own.infer(images(3))
            np.testing.assert_array_equal(found.logits, expected.logits)
            np.testing.assert_array_equal(found.select_score, expected.select_score)
            assert isinstance(engine, ServedElsewhere)
            assert str(engine.describe()) == "1 of 1 servers cpu fp32"

    def test_name_the_version_that_the_bundle_is(self, bundle: Path, store: Store, publish: Publish) -> None:
        server = server_of(bundle)
        other = server.hold(store.path(publish("b", shift=1.0)))
        with loaded(bundle, [server]) as (engine, _):
            engine.infer(images(1))
            assert {version for version, _ in server.calls} == {version_of(bundle.name)}
            assert other != version_of(bundle.name)

    def test_of_heads_come_too(
        self,
        store: Store,
        write_bundle_files: Callable[..., Path],
        write_onnx: Callable[..., Path],
        tmp_path: Path,
        provenance: Provenance,
    ) -> None:
        graph = write_onnx(tmp_path / "heads.onnx", heads=("head.works",))
        files = write_bundle_files(tmp_path / "heads", engine=graph)
        shown, _ = read_golden(files / GOLDEN)
        write_golden(files / GOLDEN, shown, OnnxEngine(graph, threads=1).infer(shown))
        bundle = store.path(store.publish(files, provenance))
        server = server_of(bundle, outputs={"logits": 2, "select_score": 1, "head.works": 2})
        with loaded(bundle, [server]) as (engine, _):
            assert engine.infer(images(2)).heads["works"].shape == (2, 2)

    def test_pass_the_golden_images_at_every_size_of_batch_at_every_server(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers):
            for server in servers:
                assert {size for _, size in server.calls} >= {1, 2, MOST}


class TestWhoIsAsked:
    def test_is_the_server_with_the_fewest_batches_under_way(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0, timeout_s=60.0) as (engine, _):
            for server in servers:
                server.go.clear()
            first = threading.Thread(target=engine.infer, args=(images(1),))
            first.start()
            until(lambda: any(one.in_flight for one in engine.servers))
            busy = [one.in_flight for one in engine.servers].index(1)
            servers[1 - busy].go.set()
            before = engine.servers[1 - busy].batches
            for _ in range(4):
                engine.infer(images(1))
            assert engine.servers[1 - busy].batches == before + 4
            servers[busy].go.set()
            first.join()

    def test_turns_where_nothing_is_under_way(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0) as (engine, _):
            before = [one.batches for one in engine.servers]
            for _ in range(6):
                engine.infer(images(1))
            assert [one.batches - old for one, old in zip(engine.servers, before, strict=True)] == [3, 3]


class TestLost:
    def test_a_server_costs_a_request_one_more_attempt(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0) as (engine, up):
            up[0].stop()
            for _ in range(4):
                assert len(engine.infer(images(2))) == 2
            assert states(engine) == ["lost", "up"]
            assert [one.failures for one in engine.servers] == [1, 0]

    def test_a_server_that_is_back_shows_the_golden_images_before_it_answers(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers) as (engine, up):
            port = int(up[0].url.rpartition(":")[2])
            up[0].stop()
            until(lambda: states(engine) == ["lost", "up"])
            servers[0].changes = lambda found, _: found | {"logits": found["logits"] + 1}
            up[0] = start(servers[0], port)
            until(lambda: states(engine) == ["refused", "up"])
            for _ in range(3):
                engine.infer(images(1))
            servers[0].changes = lambda found, _: found
            until(lambda: states(engine) == ["up", "up"])

    def test_an_error_or_a_late_answer_is_as_bad(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0, timeout_s=1.0) as (engine, _):
            servers[0].go.clear()
            for _ in range(2):
                engine.infer(images(1))
            assert [one.failures for one in engine.servers] == [1, 0]
            servers[1].fails = True
            until(lambda: states(engine)[0] != "up")
            with pytest.raises(InferenceError, match="no server answered"):
                engine.infer(images(1))
            servers[0].go.set()

    def test_one_that_was_too_slow_answers_again_after_a_single_image(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0, timeout_s=1.0) as (engine, _):
            before = [len(server.calls) for server in servers]
            servers[0].delays, servers[1].delays = [1.3], [1.3]
            with pytest.raises(InferenceError, match="no reply within"):
                engine.infer(images(1))
            until(lambda: states(engine) == ["up", "up"])
            sizes = [size for server, old in zip(servers, before, strict=True) for _, size in server.calls[old:]]
            assert set(sizes) == {1}
            assert len(sizes) <= 6

    def test_a_batch_waits_for_a_server_where_nobody_else_may_compute_it(self, bundle: Path) -> None:
        server = server_of(bundle)
        with loaded(bundle, [server], timeout_s=5.0) as (engine, up):
            port = int(up[0].url.rpartition(":")[2])
            up[0].stop()
            until(lambda: states(engine) == ["lost"])
            found = []
            asking = threading.Thread(target=lambda: found.append(engine.infer(images(2))))
            asking.start()
            up[0] = start(server, port)
            asking.join()
            assert len(found[0]) == 2

    def test_a_server_that_leads_to_what_nobody_expected_is_looked_at_again(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = server_of(bundle)
        outputs, broken = Seat._outputs, threading.Event()

        async def fails(seat: Seat, *given: Any) -> Any:
            if broken.is_set():
                raise ZeroDivisionError("a fault of this program")
            return await outputs(seat, *given)

        monkeypatch.setattr(Seat, "_outputs", fails)
        with loaded(bundle, [server]) as (engine, _):
            broken.set()
            until(lambda: states(engine) == ["refused"])
            assert engine.servers[0].reason == "a fault of this program"
            broken.clear()
            until(lambda: states(engine) == ["up"])

    def test_all_of_them_are_replaced_by_this_process(self, bundle: Path) -> None:
        server = server_of(bundle)
        with loaded(bundle, [server], last_resort="lazy", look_s=60.0) as (engine, up):
            assert engine.own_batches == 0
            expected = engine.infer(images(3))
            up[0].stop()
            for _ in range(3):
                np.testing.assert_allclose(engine.infer(images(3)).logits, expected.logits, atol=1e-4)
            assert engine.own_batches == 3
            assert "0 of 1 servers, onnxruntime" in str(engine.describe())

    def test_and_loaded_in_good_time_where_nobody_asks(self, bundle: Path) -> None:
        server = server_of(bundle)
        with loaded(bundle, [server], last_resort="lazy") as (engine, up):
            up[0].stop()
            until(lambda: "onnxruntime" in str(engine.describe()))

    def test_loaded_with_the_bundle_where_that_is_set(self, bundle: Path) -> None:
        with loaded(bundle, [server_of(bundle)], last_resort="loaded", look_s=60.0) as (engine, up):
            up[0].stop()
            engine.infer(images(1))
            assert engine.own_batches == 1

    def test_this_process_computes_nothing_that_its_golden_images_speak_against(self, store: Store, publish: Publish):
        bundle = store.path(publish("a", golden_shift=1.0))
        with (
            opener(["http://127.0.0.1:1"], last_resort="lazy") as opened,
            pytest.raises(BundleRefused, match="the engine of this process: at batch size 1"),
        ):
            load(opened, bundle)

    def test_this_process_does_not_try_it_anew_for_each_request(self) -> None:
        tried, now = list[float](), [0.0]

        def fails() -> OnnxEngine:
            tried.append(now[0])
            raise BundleRefused("its golden images differ")

        last = LastResort(fails, clock=lambda: now[0])
        for at in (0.0, 1.0, 29.0, 31.0, 32.0):
            now[0] = at
            with pytest.raises(BundleRefused, match="its golden images differ"):
                last.infer(images(1))
        assert tried == [0.0, 31.0]

    def test_a_miner_starts_without_any_server(self, bundle: Path) -> None:
        with opener(["http://127.0.0.1:1"], last_resort="lazy") as opened:
            live = load(opened, bundle)
            assert len(live.engine.infer(images(2))) == 2
            live.close()

    def test_or_not_where_it_is_to_compute_nothing_itself(self, bundle: Path) -> None:
        with (
            opener(["http://127.0.0.1:1"]) as opened,
            pytest.raises(BundleRefused, match=r"no server may answer: http://127\.0\.0\.1:1: "),
        ):
            load(opened, bundle)


def exchanged(found: Arrays, _: Pixels) -> Arrays:
    return {"logits": found["logits"], "select_score": found["logits"][:, 1].copy()}


def other_precision(found: Arrays, _: Pixels) -> Arrays:
    """As far off as ten bits of a factor bring it: the low half of each number is gone."""
    bits = np.ascontiguousarray(found["logits"]).view(np.uint32) & np.uint32(0xFFFF0000)
    return found | {"logits": bits.view(np.float32)}


def wrong_order(found: Arrays, _: Pixels) -> Arrays:
    return {name: values[::-1].copy() for name, values in found.items()}


def one_image_short(found: Arrays, _: Pixels) -> Arrays:
    return {name: values[:-1] for name, values in found.items()}


def another_scale(found: Arrays, _: Pixels) -> Arrays:
    """As if the pixels had been taken to be in [0, 1] already."""
    return {name: values / np.float32(255) for name, values in found.items()}


def flat(found: Arrays, _: Pixels) -> Arrays:
    return found | {"logits": found["logits"][:, :1].copy()}


def wrong_in_batches_of_two(found: Arrays, pixels: Pixels) -> Arrays:
    return found | {"logits": found["logits"] + 0.5} if len(pixels) == 2 else found


CHANGES: dict[str, Change] = {
    "another precision": other_precision,
    "two outputs exchanged": exchanged,
    "another scale of the preprocessing": another_scale,
    "another order of the batch": wrong_order,
    "no number": nan,
    "one image short": one_image_short,
    "another shape": flat,
    "wrong at one size of batch": wrong_in_batches_of_two,
}


class TestRefused:
    """What answers otherwise than the bundle's engine never answers a request."""

    @staticmethod
    def check(bundle: Path, server: Server, match: str = "") -> None:
        with running(server) as [up], opener([up.url]) as opened:
            with pytest.raises((ParityError, BundleRefused), match=match) as told:
                load(opened, bundle)
            assert "127.0.0.1" in str(told.value)

    @pytest.mark.parametrize("name", CHANGES)
    def test_by_its_numbers(self, bundle: Path, name: str) -> None:
        self.check(
            bundle, server_of(bundle, changes=CHANGES[name]), "no server computes this bundle as its engine does"
        )

    def test_another_graph_under_the_version(self, bundle: Path, store: Store, publish: Publish) -> None:
        server = Server()
        server.hold(bundle, engine=store.path(publish("b", shift=0.2)) / ENGINE)
        self.check(bundle, server, "differ from the golden ones by")

    def test_a_generation_before(self, bundle: Path, store: Store, publish: Publish) -> None:
        self.check(bundle, server_of(store.path(publish("b"))), "no version")

    def test_a_server_that_answers_for_another_version(self, bundle: Path) -> None:
        class Stale(Server):
            async def infer(self, version: str, images: Pixels) -> Arrays:  # noqa: ARG002
                return await super().infer("1", images)

        server = Stale(name="stage1")
        server.hold(bundle, version="1")
        self.check(bundle, server, "has no version")

    def test_a_reply_that_names_another_version(self, bundle: Path) -> None:
        server, wanted = server_of(bundle), version_of(bundle.name)

        def answer(asked: Asked) -> bytes:
            if asked.path == "/v2":
                return as_json({"extensions": []})
            if asked.path.endswith("/infer"):
                outputs = _json_outputs(server, wanted, asked)
                return as_json({"model_name": "stage1", "model_version": "7", "outputs": outputs})
            return as_json(_metadata(wanted))

        fake = Fake(answer)
        with served(fake), opener([fake.url]) as opened, pytest.raises(ParityError, match="version 7 answered"):
            load(opened, bundle)

    def test_not_a_server_that_takes_each_image_as_bytes(self, bundle: Path) -> None:
        """MLServer reads no binary tensors."""
        server, wanted = server_of(bundle), version_of(bundle.name)

        def answer(asked: Asked) -> bytes:
            if asked.path == "/v2":
                return as_json({"extensions": []})
            if asked.path.endswith("/infer"):
                [port] = json.loads(asked.body)["inputs"]
                pixels = b"".join(base64.b64decode(one) for one in port["data"])
                port |= {"shape": [port["shape"][0], 3, 32, 32], "data": np.frombuffer(pixels, np.uint8).tolist()}
                asked.body = json.dumps({"inputs": [port]}).encode()
                outputs = _json_outputs(server, wanted, asked)
                return as_json({"model_name": "stage1", "model_version": wanted, "outputs": outputs})
            image = {"name": "image", "datatype": "BYTES", "shape": [-1]}
            return as_json(_metadata(wanted) | {"inputs": [image]})

        fake = Fake(answer)
        with served(fake), opener([fake.url]) as opened:
            load(opened, bundle).close()

    def test_another_name_of_the_model(self, bundle: Path) -> None:
        self.check(bundle, server_of(bundle, name="other"), "404")

    def test_another_shape_of_images(self, bundle: Path) -> None:
        self.check(bundle, server_of(bundle, shape=(64, 64)), "the model takes image UINT8 \\[3, 64, 64\\]")

    def test_other_outputs(self, bundle: Path) -> None:
        self.check(bundle, server_of(bundle, outputs={"logits": 2}), "the model gives logits FP32")

    def test_batches_that_it_does_not_take(self, bundle: Path) -> None:
        self.check(bundle, server_of(bundle, max_batch=2), "at most 2 images")

    def test_one_server_does_not_keep_another_from_answering(self, bundle: Path) -> None:
        wrong, right = server_of(bundle, changes=exchanged), server_of(bundle)
        with loaded(bundle, [wrong, right]) as (engine, _):
            before = len(wrong.calls)
            for _ in range(3):
                engine.infer(images(1))
            assert states(engine) == ["refused", "up"]
            # What it was asked since were golden images.
            assert engine.servers[0].batches == 0
            assert len(wrong.calls) >= before


class TestAfterTheGate:
    def test_a_server_that_changes_its_model_is_found_by_a_look(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers) as (engine, _):
            servers[0].changes = exchanged
            until(lambda: states(engine) == ["refused", "up"])

    def test_a_server_that_drops_the_version_answers_no_more(
        self, bundle: Path, store: Store, publish: Publish
    ) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0) as (engine, _):
            servers[0].engines.clear()
            servers[0].hold(store.path(publish("b")))
            for _ in range(4):
                engine.infer(images(1))
            assert states(engine)[0] != "up"
            assert engine.servers[1].batches >= 3

    def test_an_answer_that_is_no_number_is_not_given(self, bundle: Path) -> None:
        servers = [server_of(bundle), server_of(bundle)]
        with loaded(bundle, servers, look_s=60.0) as (engine, _):
            servers[0].changes = nan
            for _ in range(4):
                assert np.isfinite(engine.infer(images(1)).logits).all()
            assert engine.servers[0].failures == 1


class TestLacking:
    def test_a_bundle_waits_for_servers_that_have_not_got_it_while_another_one_serves(
        self, bundle: Path, store: Store, publish: Publish
    ) -> None:
        server = server_of(bundle)
        with running(server) as [up], opener([up.url], last_resort="lazy") as opened:
            first = load(opened, bundle)
            second = store.path(publish("b", golden_shift=0.0))
            with pytest.raises(NotThereYet, match=f"no server has version {version_of(second.name)} of stage1 yet"):
                load(opened, second)
            server.hold(second)
            load(opened, second).close()
            first.close()

    def test_a_repository_is_filled_and_the_servers_told(self, bundle: Path, tmp_path: Path) -> None:
        server = Server(on_load=lambda one: one.hold(bundle))
        with running(server) as [up], opener([up.url], repository=tmp_path / "models") as opened:
            load(opened, bundle).close()
            assert server.loads == 1
            assert (tmp_path / "models" / "stage1" / version_of(bundle.name) / ENGINE).exists()

    def test_versions_that_nobody_needs_go_after_the_swap(self, bundle: Path, store, publish, tmp_path: Path) -> None:
        held = [bundle]
        server = Server(on_load=lambda one: [one.hold(each) for each in held])
        with running(server) as [up], opener([up.url], repository=tmp_path / "models", keep=2) as opened:
            live = load(opened, bundle)
            for note in "bcd":
                held.append(store.path(publish(note)))
                fresh = load(opened, held[-1])
                live.close()
                live = fresh
            kept = {path.name for path in (tmp_path / "models" / "stage1").glob("[0-9]*")}
            assert kept == {version_of(one.name) for one in held[-2:]}
            live.close()


def test_a_closed_engine_says_so(bundle: Path) -> None:
    with loaded(bundle, [server_of(bundle)]) as (engine, _):
        engine.close()
        with pytest.raises(InferenceError, match="closed"):
            engine.infer(images(1))


def _metadata(version: str) -> dict[str, Any]:
    outputs = [
        {"name": "logits", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "select_score", "datatype": "FP32", "shape": [-1]},
    ]
    image = {"name": "image", "datatype": "UINT8", "shape": [-1, 3, 32, 32]}
    return {"name": "stage1", "versions": [version], "inputs": [image], "outputs": outputs}


def _json_outputs(server: Server, version: str, asked: Asked) -> list[dict[str, Any]]:
    [port] = json.loads(asked.body)["inputs"]
    found = server.engines[version].infer(np.uint8(port["data"]).reshape(port["shape"]))
    values = {"logits": found.logits, "select_score": found.select_score}
    return [
        {"name": name, "datatype": "FP32", "shape": list(one.shape), "data": one.ravel().tolist()}
        for name, one in values.items()
    ]
