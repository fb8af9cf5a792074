"""One limit for every comparison with golden images: the gate, the look, the last resort, and an engine of a miner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.engine import EngineDescription
from engines.errors import BundleRefused, ParityError
from engines.live.load.golden_check import check_parity
from engines.live.remote.engine import RemoteEngine
from engines.live.remote.opener import RemoteEngines
from engines.live.remote.settings import RemoteSettings
from engines.remote.protocol_app import Arrays
from engines.spec import REFERENCE, EngineSpec, Precision
from engines.store.bundle import Provenance
from engines.store.file_names import ENGINE, GOLDEN, SPEC
from engines.store.golden import write_golden
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from tests.support.stage1_servers import Change, Server, running

MOST, DEADLINE_S = 2, 20.0
TOLERANCE = 2e-2
SPECS: dict[Precision, EngineSpec] = {
    "fp32": REFERENCE,
    "bf16": EngineSpec(backend="tensorrt", device="cuda", precision="bf16"),
    "int8": EngineSpec(precision="int8"),
}
# Logits of the golden images have a range of 0.2: a share of it is 0.002 in fp32, 0.01 in bf16, and int8 has none.
NEAR: dict[Precision, float] = {"fp32": 1e-3, "bf16": 5e-3, "int8": 1.5e-2}
FAR: dict[Precision, float] = {"fp32": 5e-3, "bf16": 1.5e-2, "int8": 3e-2}
Make = Callable[..., Path]


@pytest.fixture
def make(
    store: Store,
    write_bundle_files: Callable[..., Path],
    write_onnx: Callable[..., Path],
    tmp_path: Path,
    provenance: Provenance,
) -> Make:
    """Publishes a bundle of a precision, whose golden logits of roadwork are `off` from what its graph computes."""

    def made(precision: Precision, off: float = 0.0) -> Path:
        graph = write_onnx(tmp_path / "model.onnx")
        files = write_bundle_files(tmp_path / f"{precision} {off}", engine=graph)
        values = np.array([[100, 105, 105], [105, 105, 100], [103, 100, 103], [104, 100, 102]], np.uint8)
        images = np.broadcast_to(values[:, :, None, None], (len(values), 3, 32, 32)).copy()
        found = OnnxEngine(graph, threads=1).infer(images)
        assert float(np.ptp(found.logits)) == pytest.approx(0.2, abs=1e-4)
        logits = found.logits + np.array([0.0, off], np.float32)
        write_golden(files / GOLDEN, images, Stage1Outputs(logits, found.select_score))
        SPECS[precision].write(files / SPEC)
        return store.path(store.publish(files, provenance, parity_tolerance=TOLERANCE))

    return made


@contextmanager
def opener(*urls: str, last_resort: str = "never") -> Iterator[RemoteEngines]:
    settings = RemoteSettings.model_validate({"look_s": 0.05, "timeout_s": 5.0, "last_resort": last_resort})
    made = RemoteEngines(urls, settings, most=MOST, memory=lambda: None)
    try:
        yield made
    finally:
        made.close()


def moved(off: float) -> Change:
    def change(found: Arrays, _: Pixels) -> Arrays:
        return found | {"logits": found["logits"] + np.array([0.0, off], np.float32)}

    return change


def state_after_a_change(bundle: Path, precision: Precision, off: float) -> str:
    """A server that passed the gate answers otherwise; how it stands when it was looked at twice since."""
    server = Server()
    server.hold(bundle)
    with running(server) as [up], opener(up.url) as opened:
        engine = opened.open(SPECS[precision], bundle / ENGINE)
        engine.warm_up(MOST)
        [status] = engine.servers
        assert status.state == "up"
        server.changes = moved(off)
        seen, end = len(server.calls), time.monotonic() + DEADLINE_S
        # The first of them may have been under way when it changed; the second comes after the ruling on the other.
        while len(server.calls) < seen + 3:
            assert time.monotonic() < end
            time.sleep(0.005)
        [status] = engine.servers
    return status.state


@contextmanager
def served(bundle: Path, precision: Precision) -> Iterator[RemoteEngine]:
    """The engine of a bundle that one server computes."""
    server = Server()
    server.hold(bundle)
    with running(server) as [up], opener(up.url) as opened:
        yield opened.open(SPECS[precision], bundle / ENGINE)


@pytest.mark.parametrize("precision", SPECS)
class TestThatIsNear:
    def test_passes_the_gate_of_a_server(self, make: Make, precision: Precision) -> None:
        with served(make(precision, NEAR[precision]), precision) as engine:
            engine.warm_up(MOST)
            assert [one.state for one in engine.servers] == ["up"]

    def test_passes_each_look(self, make: Make, precision: Precision) -> None:
        assert state_after_a_change(make(precision), precision, NEAR[precision]) == "up"


@pytest.mark.parametrize("precision", SPECS)
class TestThatIsFar:
    def test_does_not_pass_the_gate_of_a_server(self, make: Make, precision: Precision) -> None:
        refusal = pytest.raises(ParityError, match="no server computes this bundle as its engine does")
        with served(make(precision, FAR[precision]), precision) as engine, refusal:
            engine.warm_up(MOST)

    def test_does_not_pass_a_look(self, make: Make, precision: Precision) -> None:
        assert state_after_a_change(make(precision), precision, FAR[precision]) == "refused"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
class TestLastResort:
    """Where a GPU computed the bundle it is the reference in fp32, and held to what was certified."""

    def test_that_is_near_computes(self, make: Make, precision: Precision) -> None:
        bundle = make(precision, NEAR[precision])
        with opener("http://127.0.0.1:1", last_resort="lazy") as opened:
            engine = opened.open(SPECS[precision], bundle / ENGINE)
            engine.warm_up(MOST)
            assert len(engine.infer(np.zeros((1, 3, 32, 32), np.uint8))) == engine.own_batches == 1

    def test_that_is_far_does_not(self, make: Make, precision: Precision) -> None:
        bundle = make(precision, FAR[precision])
        with opener("http://127.0.0.1:1", last_resort="lazy") as opened:
            engine = opened.open(SPECS[precision], bundle / ENGINE)
            with pytest.raises(BundleRefused, match="the engine of this process: at batch size 1"):
                engine.warm_up(MOST)


class Named:
    """An engine that says another precision of itself."""

    def __init__(self, engine: OnnxEngine, precision: Precision) -> None:
        self._engine, self._precision = engine, precision
        self.infer, self.warm_up, self.close = engine.infer, engine.warm_up, engine.close

    def describe(self) -> EngineDescription:
        return EngineDescription(SPECS[self._precision], "test", (32, 32), 1)


@pytest.mark.parametrize("certified", SPECS)
@pytest.mark.parametrize("serving", SPECS)
def test_another_precision_never_widens_it(make: Make, certified: Precision, serving: Precision) -> None:
    """And what serves an int8 bundle in another precision is held to the share of that one."""
    held_to = serving if certified == "int8" else certified
    bundle = make(certified, NEAR[held_to])
    engine = Named(OnnxEngine(bundle / ENGINE, threads=1), serving)
    check_parity(engine, bundle / GOLDEN, TOLERANCE, precision=certified, sizes=(1, MOST))
    golden = make(certified, FAR[held_to]) / GOLDEN
    with pytest.raises(ParityError, match="at batch size 1, outputs differ"):
        check_parity(engine, golden, TOLERANCE, precision=certified, sizes=(1, MOST))
