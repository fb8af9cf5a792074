"""Bundles whose engine is for another machine, and engines that get another night's weights.

Plans are built by the real TensorRT-RTX, in a child; what would run them is a GPU made of host memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

import engines.tensorrt_engine
from engines.backends import open_engine
from engines.bundle import ENGINE, PARAMS, SPEC, Provenance, certified_sha256_of
from engines.child import Child
from engines.cuda import Cuda
from engines.device import Gpu, NoGpu
from engines.engine import Engine, EngineSpec, Refittable
from engines.errors import BundleRefused, UnknownBundle
from engines.follow import Recalibrate, StoreFollower
from engines.lifecycle import State
from engines.loader import EngineOptions
from engines.loading import check_bundle
from engines.onnx_engine import OnnxEngine
from engines.settings import SwapSettings
from engines.store import Store
from engines.tensorrt_build import build_plan
from engines.tensorrt_engine import TensorRtEngine
from engines.tensorrt_flavour import Flavour
from engines.tensorrt_plan import PLAN
from engines.trial import try_out
from engines.workshop import Workshop
from stage1.certificate import ScrcParams
from stage1.preprocess import PreprocessSettings

pytest.importorskip("tensorrt_rtx")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FP32 = EngineSpec(backend="tensorrt", device="cuda")
GPU = Gpu(name="Some GPU", compute_capability="8.6", driver="13.0", total_bytes=24 << 30, free_bytes=20 << 30)
HERE = {"gpu": "Some GPU", "compute_capability": "8.6", "driver_major": 13}
ELSEWHERE = {"gpu": "Another GPU", "compute_capability": "9.0", "driver_major": 13}
DEADLINE_S = 60.0
Publish = Callable[..., str]


@dataclass
class Machine:
    """A machine with a GPU that computes what the graph of a plan does.

    Attributes:
        flavour: its TensorRT.
        host_gpu: makes what a TensorRT engine calls.
        off: added by the GPU to the logit of roadwork.
        deserialized: directories of plans that the library was shown.
        opened: engines.
        refits: graphs whose weights were put into an engine.
        takes_weights: whether the library does so.
    """

    flavour: Flavour
    host_gpu: Callable[[Path], tuple[Any, Any]]
    monkeypatch: pytest.MonkeyPatch
    off: float = 0.0
    deserialized: list[Path] = field(default_factory=list)
    opened: list[TensorRtEngine] = field(default_factory=list)
    refits: list[Path] = field(default_factory=list)
    takes_weights: bool = True

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:
        if spec.backend != "tensorrt":
            return open_engine(spec, model, threads=threads)
        cuda, library = self.host_gpu(model)
        if self.off:
            infer = library.reference.infer
            off = np.array([0.0, self.off], np.float32)
            library.reference.infer = lambda batch: dataclasses.replace(infer(batch), logits=infer(batch).logits + off)

        def deserialize(_flavour: Flavour, _content: bytes) -> tuple[str, Any, Any]:
            self.deserialized.append(compiled or model.parent)
            return "VALID", object(), library

        self.monkeypatch.setattr(engines.tensorrt_engine, "Cuda", lambda: Cuda(cuda))
        self.monkeypatch.setattr(engines.tensorrt_engine, "deserialize", deserialize)
        engine = TensorRtEngine(model, spec, compiled=compiled, find=lambda: GPU)
        engine.flavour = dataclasses.replace(engine.flavour, trt=self._refitting(library))
        self.opened.append(engine)
        return engine

    def _refitting(self, library: Any) -> SimpleNamespace:
        def refit_from_file(path: str) -> bool:
            self.refits.append(Path(path))
            library.reference = OnnxEngine(Path(path), threads=1)
            return self.takes_weights

        refitter = SimpleNamespace(get_missing_weights=list, refit_cuda_engine_async=lambda _: True)
        parser = SimpleNamespace(refit_from_file=refit_from_file)
        return SimpleNamespace(
            **{**vars(self.flavour.trt), "Refitter": lambda *_: refitter, "OnnxParserRefitter": lambda *_: parser}
        )


@pytest.fixture
def machine(flavour: Flavour, host_gpu: Callable[[Path], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(flavour, host_gpu, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def publish(
    store: Store,
    tmp_path: Path,
    flavour: Flavour,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance: Provenance,
) -> Publish:
    """Publishes a bundle for TensorRT and makes it current.

    `built` is what its plan says of the machine it is for, `off` how far the golden outputs are from the graph.
    """

    def publish_one(
        note: str,
        *,
        built: dict[str, Any] | None = None,
        refittable: bool = False,
        off: float = 0.0,
        tolerance: float = 1e-3,
        shift: float = 0.0,
        **graph: Any,
    ) -> str:
        engine = write_onnx(tmp_path / f"{note}.onnx", shift=shift, **graph)
        files = write_bundle_files(tmp_path / note, engine=engine, golden_shift=shift + off, note=note)
        plan = build_plan(files / ENGINE, flavour=flavour)
        fingerprint = plan.description.fingerprint.model_copy(update={"gpu": None} | (built or {}))
        description = plan.description.model_copy(update={"fingerprint": fingerprint, "refittable": refittable})
        dataclasses.replace(plan, description=description).write(files)
        FP32.write(files / SPEC)
        certificate(
            engine_sha256=certified_sha256_of(files, FP32), preprocess_sha256=PreprocessSettings(size_px=32).sha256
        ).write(files / PARAMS)
        bundle = store.publish(files, provenance, parity_tolerance=tolerance)
        store.activate(bundle, now=NOW)
        return bundle

    return publish_one


@pytest.fixture
def publish_plain(store: Store, publisher: Callable[[Store], Publish]) -> Publish:
    """Publishes a bundle for ONNX Runtime and makes it current."""
    return publisher(store)


@pytest.fixture
def following(store: Store, machine: Machine, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def follow(
        *,
        recalibrate: Recalibrate | None = None,
        find: Callable[[], Gpu | NoGpu] = lambda: GPU,
        serve_with: EngineSpec | None = None,
        trial: bool = False,
    ) -> AsyncIterator[StoreFollower]:
        workshop = Workshop(tmp_path / "workshop", find=find)
        follower = StoreFollower(
            store,
            settings=SwapSettings(trial=trial),
            options=EngineOptions(threads=1, most=2, workshop=workshop, opens=machine.open, serve_with=serve_with),
            recalibrate=recalibrate,
        )
        await follower.start()
        try:
            yield follower
        finally:
            await follower.close()

    return follow


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scenario()

    asyncio.run(bounded())


def serving(follower: StoreFollower) -> tuple[str | None, str, int]:
    """The live bundle, the runtime that computes, and the generation."""
    status = follower.status()
    return status.bundle, status.engine.partition(" ")[0], status.generation


def store_of(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def state(follower: StoreFollower) -> State:
    return follower.status().history[-1].state


def built(tmp_path: Path) -> list[str]:
    """Names of what the workshop holds, and of what it left."""
    return sorted(path.name for path in (tmp_path / "workshop").glob("*") if path.name != ".lock")


@pytest.fixture
def never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on, a child does not end by itself."""
    script = tmp_path / "never"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    return lambda: monkeypatch.setattr("engines.child.sys.executable", str(script))


@dataclass
class Trials:
    """Trials that take until they are released, or given up.

    Attributes:
        asked: directories of what was compiled here, None for the bundle's own.
        go: set to let them pass.
        refuses: what they say instead.
    """

    asked: list[Path | None] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    refuses: str = ""

    def __call__(self, child: Child, _directory: Path, *, compiled: Path | None, **_: object) -> None:
        self.asked.append(compiled)
        while not self.go.wait(0.01):
            child.check()
        if self.refuses:
            raise BundleRefused(self.refuses)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    """A trial in a real child would look for a real GPU."""
    made = Trials()
    monkeypatch.setattr("engines.loader.try_out", made)
    return made


def score(follower: StoreFollower, images: NDArray[np.uint8]) -> float:
    with follower.slot.lease() as lease:
        return float(lease.bundle.engine.infer(images).roadwork_score[0])


class TestAnotherMachine:
    """An engine that was compiled for another GPU, driver or version."""

    @pytest.mark.parametrize(
        "built",
        [
            ELSEWHERE,
            HERE | {"driver_major": 12},
            {"version": "1.6.0.1"},
        ],
        ids=["gpu", "driver", "version"],
    )
    def test_it_is_compiled_here_while_the_old_one_serves(
        self,
        publish: Publish,
        publish_plain: Publish,
        following: Any,
        machine: Machine,
        tmp_path: Path,
        built: dict[str, Any],
    ) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            async with following() as follower:
                foreign = publish("foreign", built=built)
                moving = asyncio.create_task(follower.refresh())
                await until(lambda: state(follower) is State.BUILDING)
                assert serving(follower) == (old, "onnxruntime", 1)
                assert await moving is True
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)
                assert [path.parent for path in machine.deserialized] == [tmp_path / "workshop"]
                assert follower.status().vouched_by == "golden images"

        run(scenario)

    def test_what_was_compiled_is_found_again(self, publish: Publish, following: Any, tmp_path: Path) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                await follower.refresh()
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)
            async with following() as follower:
                assert serving(follower) == (foreign, "tensorrt_rtx", 1)
                assert "building" not in follower.status().history[-1].seconds()
            [made] = built(tmp_path)
            assert made.startswith(foreign)

        run(scenario)

    def test_at_a_start_onnx_runtime_stands_in(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                assert serving(follower) == (foreign, "onnxruntime", 1)
                assert follower.status().vouched_by == "golden images"
                assert await follower.refresh() is True
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)
                assert follower.status().standby is None
                assert await follower.refresh() is False
                with pytest.raises(UnknownBundle, match="no bundle stands by"):
                    await follower.rollback(now=NOW)

        run(scenario)

    def test_a_damaged_one_is_compiled_again(self, publish: Publish, following: Any, tmp_path: Path) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                await follower.refresh()
            [plan] = (tmp_path / "workshop").glob(f"*/{PLAN}")
            content = bytearray(plan.read_bytes())
            content[len(content) // 2] ^= 1
            plan.write_bytes(content)
            async with following() as follower:
                with capture_logs() as logs:
                    assert await follower.refresh() is True
                assert "compiled_engine_refused" in [entry["event"] for entry in logs]
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)

        run(scenario)

    def test_one_that_computes_otherwise_is_refused_and_the_old_one_stays(
        self, publish: Publish, publish_plain: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            machine.off = 0.01
            async with following() as follower:
                publish("foreign", built=ELSEWHERE)
                assert await follower.refresh() is False
                assert serving(follower) == (old, "onnxruntime", 1)
                assert "outputs differ from the golden ones by 0.01" in follower.status().history[-1].reason
                assert await follower.refresh() is False
                assert follower.refusals == 1

        run(scenario)

    def test_the_bundle_says_how_far_it_may_be_away(
        self, publish: Publish, publish_plain: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            publish_plain("old")
            machine.off = 0.01
            async with following() as follower:
                foreign = publish("foreign", built=ELSEWHERE, tolerance=0.02)
                assert await follower.refresh() is True
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)

        run(scenario)

    def test_a_stand_in_serves_on_where_nothing_can_be_compiled(
        self, publish: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            machine.monkeypatch.setattr("engines.child.sys.executable", "/bin/false")
            async with following() as follower:
                assert await follower.refresh() is False
                assert "compiling it ended with status 1" in follower.status().history[-1].reason
                for _ in range(3):
                    assert await follower.refresh() is False
                assert serving(follower) == (foreign, "onnxruntime", 1)
                assert follower.refusals == 1

        run(scenario)

    def test_a_stand_in_that_computes_otherwise_never_serves(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            # The certified engine was 0.5 away from what ONNX Runtime computes, and so is the one that is compiled.
            publish("foreign", built=ELSEWHERE, off=0.5)
            with capture_logs() as logs, pytest.raises(BundleRefused, match="outputs differ from the golden ones"):
                async with following():
                    pass
            events = [entry["event"] for entry in logs]
            assert events[:2] == ["engine_of_another_machine", "stand_in_refused"]
            assert "bundle_live" not in events

        run(scenario)

    def test_without_a_gpu_it_is_refused(self, publish: Publish, publish_plain: Publish, store: Store) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            workshop = Workshop(store.root / "workshop", find=lambda: NoGpu(reason="none is plugged in"))
            options = EngineOptions(threads=1, most=1, workshop=workshop)
            follower = StoreFollower(store, settings=SwapSettings(trial=False), options=options)
            await follower.start()
            publish("foreign", built=ELSEWHERE)
            assert await follower.refresh() is False
            assert serving(follower) == (old, "onnxruntime", 1)
            assert "needs a GPU, and there is none" in follower.status().history[-1].reason
            await follower.close()

        run(scenario)

    def test_a_bundle_for_another_engine_is_compiled_for_the_one_that_serves(
        self, publish_plain: Publish, following: Any
    ) -> None:
        async def scenario() -> None:
            plain = publish_plain("plain")
            async with following(serve_with=FP32) as follower:
                assert serving(follower) == (plain, "onnxruntime", 1)
                assert await follower.refresh() is True
                assert serving(follower) == (plain, "tensorrt_rtx", 2)

        run(scenario)


class TestTrial:
    def test_what_was_compiled_here_is_tried_and_all_golden_images_compared_again(
        self, publish: Publish, publish_plain: Publish, following: Any, trials: Trials, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            trials.go.set()
            publish_plain("old")
            async with following(trial=True) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                assert await follower.refresh() is True
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)
            [name] = built(tmp_path)
            assert trials.asked == [tmp_path / "workshop" / name]

        run(scenario)

    def test_the_child_is_told_where_it_was_compiled(self, publish: Publish, store: Store, tmp_path: Path) -> None:
        """By the real child, which finds that there is no GPU to go on with."""
        home = store.path(publish("here"))
        with pytest.raises(BundleRefused, match=rf"{home.name}: .*nothing/engine\.json: cannot be read"):
            try_out(Child(), home, compiled=tmp_path / "nothing", threads=1, most=1)


class TestSomethingElseIsWanted:
    """Compiling takes minutes: whoever wants something else does not wait for it, and it leaves nothing behind."""

    @pytest.mark.parametrize("moment", ["compiling", "looking at the machine", "trying"])
    def test_a_rollback_ends_it(
        self,
        publish: Publish,
        publish_plain: Publish,
        following: Any,
        never_ends: Callable[[], None],
        trials: Trials,
        tmp_path: Path,
        moment: str,
    ) -> None:
        async def scenario() -> None:
            asked = list[str]()

            def find() -> Gpu:
                time.sleep(1.0 if moment == "looking at the machine" else 0.0)
                return GPU

            async def recalibrate(bundle: str, _spec: EngineSpec) -> bool:
                asked.append(bundle)
                return False

            first = publish_plain("first")
            async with following(find=find, trial=True, recalibrate=recalibrate) as follower:
                trials.go.set()
                publish_plain("second")
                await follower.refresh()
                foreign = publish("foreign", built=ELSEWHERE)
                if moment == "trying":
                    # It was compiled by an earlier process.
                    checked = check_bundle(store_of(tmp_path).path(foreign))
                    workshop = Workshop(tmp_path / "workshop", find=lambda: GPU)
                    misfit = workshop.misfit(checked, FP32)
                    assert misfit is not None
                    workshop.build(checked, FP32, misfit, Child())
                    trials.go.clear()
                else:
                    follower._recalibrated.add(foreign)
                never_ends()
                moving = asyncio.create_task(follower.refresh())
                wanted = {"compiling": State.BUILDING, "trying": State.TRYING}.get(moment, State.VERIFYING)
                await until(lambda: state(follower) is wanted)
                await asyncio.sleep(0.2)
                begun = time.monotonic()
                await follower.rollback(now=NOW)
                assert time.monotonic() - begun < 5
                assert await moving is False
                assert serving(follower) == (first, "onnxruntime", 3)
                assert follower.status().recalibrating == ()
                assert asked == []
                assert (follower.refusals, follower.status().history[-1].reason) == (
                    0,
                    "given up, because something else is wanted",
                )
            assert len(built(tmp_path)) == (moment == "trying")

        run(scenario)

    def test_a_rollback_to_nothing_leaves_it_alone(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                moving = asyncio.create_task(follower.refresh())
                await until(lambda: state(follower) is State.BUILDING)
                with pytest.raises(UnknownBundle, match="no bundle stands by"):
                    await follower.rollback(now=NOW)
                assert await moving is True
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)

        run(scenario)

    def test_a_pointer_that_moves_on_ends_it(
        self, publish: Publish, publish_plain: Publish, following: Any, never_ends: Callable[[], None], tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            publish_plain("old")
            async with following() as follower:
                publish("foreign", built=ELSEWHERE)
                never_ends()
                stop = asyncio.Event()
                watching = asyncio.create_task(follower.run(stop))
                await until(lambda: state(follower) is State.BUILDING)
                last = publish_plain("last")
                await until(lambda: follower.live_id == last)
                assert (follower.swaps, follower.refusals) == (1, 0)
                stop.set()
                await watching
            assert built(tmp_path) == []

        run(scenario)

    def test_what_was_loaded_for_a_pointer_that_has_left_never_serves(
        self, publish: Publish, publish_plain: Publish, following: Any, trials: Trials, machine: Machine
    ) -> None:
        async def scenario() -> None:
            publish_plain("old")
            async with following(trial=True) as follower:
                publish("here")
                moving = asyncio.create_task(follower.refresh())
                await until(lambda: bool(trials.asked))
                last = publish_plain("last")
                trials.go.set()
                assert await moving is True
                assert (follower.live_id, follower.swaps) == (last, 1)
                await until(lambda: machine.opened[0]._closed)

        run(scenario)

    def test_the_end_of_the_process_ends_it(
        self, publish: Publish, publish_plain: Publish, following: Any, never_ends: Callable[[], None], tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            publish_plain("old")
            async with following() as follower:
                publish("foreign", built=ELSEWHERE)
                never_ends()
                moving = asyncio.create_task(follower.refresh())
                await until(lambda: state(follower) is State.BUILDING)
            assert await moving is False
            assert built(tmp_path) == []

        run(scenario)


class TestWorkshop:
    def test_of_two_miners_one_compiles_and_both_serve(self, publish: Publish, following: Any, tmp_path: Path) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as first, following() as second:
                with capture_logs() as logs:
                    assert all(await asyncio.gather(first.refresh(), second.refresh()))
                assert serving(first) == serving(second) == (foreign, "tensorrt_rtx", 2)
                assert [entry["event"] for entry in logs].count("compiling") == 1
            assert len(built(tmp_path)) == 1

        run(scenario)

    def test_what_a_killed_one_left_is_swept_and_the_latest_are_kept(
        self, publish: Publish, following: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            monkeypatch.setattr("engines.workshop.KEPT", 2)
            (tmp_path / "workshop" / ".building-dead").mkdir(parents=True)
            made = []
            for number in range(3):
                made.append(publish(f"foreign{number}", built=ELSEWHERE, shift=0.1 * number))
                async with following() as follower:
                    await follower.refresh()
                    assert serving(follower) == (made[-1], "tensorrt_rtx", 2)
            assert {name[:16] for name in built(tmp_path)} == set(made[1:])

        run(scenario)

    def test_what_would_not_fit_into_memory_is_not_even_compiled(
        self, publish: Publish, publish_plain: Publish, store: Store, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            left = [10**12]
            workshop = Workshop(tmp_path / "workshop", find=lambda: GPU)
            options = EngineOptions(threads=1, most=1, workshop=workshop, memory=lambda: left[0])
            follower = StoreFollower(store, settings=SwapSettings(trial=False), options=options)
            await follower.start()
            left[0] = 2**20
            publish("foreign", built=ELSEWHERE)
            assert await follower.refresh() is False
            assert serving(follower) == (old, "onnxruntime", 1)
            assert "1 MiB are left" in follower.status().history[-1].reason
            assert built(tmp_path) == []
            await follower.close()

        run(scenario)


class TestRecalibration:
    """Where the calibration rows are here, a bundle of its own is made for this machine."""

    def test_comes_before_the_golden_images(
        self, publish: Publish, publish_plain: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            asked: list[tuple[str, EngineSpec]] = []
            made: list[str] = []
            ready = asyncio.Event()

            async def recalibrate(bundle: str, spec: EngineSpec) -> bool:
                asked.append((bundle, spec))
                await ready.wait()
                made.append(publish("here"))
                return True

            old = publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                for _ in range(3):
                    assert await follower.refresh() is False
                assert serving(follower) == (old, "onnxruntime", 1)
                assert follower.status().vouched_by == "certificate"
                assert "calibrated anew for this machine" in follower.status().history[-1].reason
                ready.set()
                while serving(follower)[0] == old:
                    await asyncio.sleep(0.01)
                assert serving(follower) == (made[0], "tensorrt_rtx", 2)
                assert follower.status().vouched_by == "certificate"
                assert asked == [(foreign, FP32)]
                assert len(machine.deserialized) == 1

        run(scenario)

    @pytest.mark.parametrize("failure", [False, OSError("no such program")], ids=["no rows", "no program"])
    def test_where_it_is_not_possible_the_golden_images_decide(
        self, publish: Publish, publish_plain: Publish, following: Any, failure: bool | OSError
    ) -> None:
        async def scenario() -> None:
            asked: list[str] = []

            async def recalibrate(bundle: str, _spec: EngineSpec) -> bool:
                asked.append(bundle)
                if isinstance(failure, OSError):
                    raise failure
                return failure

            publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                assert await follower.refresh() is False
                while serving(follower)[0] != foreign:
                    await asyncio.sleep(0.01)
                assert serving(follower) == (foreign, "tensorrt_rtx", 2)
                assert asked == [foreign]

        run(scenario)

    def test_is_waited_for_also_by_who_asks_again(
        self, publish: Publish, publish_plain: Publish, following: Any, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            ready = asyncio.Event()
            asked: list[str] = []

            async def recalibrate(bundle: str, _spec: EngineSpec) -> bool:
                asked.append(bundle)
                await ready.wait()
                return False

            old = publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                for _ in range(3):
                    assert await follower.reload() is False
                assert (follower.live_id, follower.status().recalibrating) == (old, (foreign,))
                assert (follower.refusals, asked, built(tmp_path)) == (0, [foreign], [])
                ready.set()
                await until(lambda: follower.live_id == foreign)

        run(scenario)

    def test_ends_with_the_process(self, publish: Publish, publish_plain: Publish, following: Any) -> None:
        async def scenario() -> None:
            ended = []

            async def recalibrate(_bundle: str, _spec: EngineSpec) -> bool:
                try:
                    await asyncio.sleep(600)
                finally:
                    ended.append(True)
                return False

            publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                publish("foreign", built=ELSEWHERE)
                await follower.refresh()
                await asyncio.sleep(0)
            assert ended == [True]

        run(scenario)

    def test_goes_on_while_onnx_runtime_stands_in(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            async def recalibrate(_bundle: str, _spec: EngineSpec) -> bool:
                publish("here")
                return True

            foreign = publish("foreign", built=ELSEWHERE)
            async with following(recalibrate=recalibrate) as follower:
                assert serving(follower) == (foreign, "onnxruntime", 1)
                assert await follower.refresh() is False
                while serving(follower)[1] == "onnxruntime":
                    await asyncio.sleep(0.01)
                assert serving(follower)[2] == 2
                assert follower.live_id != foreign

        run(scenario)


class TestTwin:
    """The engine that stands by takes the weights of the next night; the one that serves is never touched."""

    def test_five_nights_need_two_engines(
        self, publish: Publish, following: Any, machine: Machine, plain_images: Callable[..., Any]
    ) -> None:
        async def scenario() -> None:
            images, answers, bundles = plain_images([[200, 50, 40]]), [], []
            publish("night0", refittable=True)
            async with following() as follower:
                for night in range(1, 5):
                    with follower.slot.lease() as lease:
                        before = score(follower, images)
                        bundle = publish(f"night{night}", refittable=True, shift=0.1 * night)
                        assert await follower.refresh() is True
                        # Who began with the old bundle still gets its answer.
                        assert float(lease.bundle.engine.infer(images).roadwork_score[0]) == before
                    assert serving(follower) == (bundle, "tensorrt_rtx", night + 1)
                    answers.append(score(follower, images))
                    bundles.append(bundle)
                assert np.diff(answers) == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)
                assert follower.status().vouched_by == "golden images"
                assert len(machine.deserialized) == 2
                assert [path.parent.name for path in machine.refits] == bundles[1:]
                # Going back needs the one before, which is whole.
                await follower.rollback(now=NOW)
                assert score(follower, images) == answers[-2]
                states = [life.state for life in follower.status().history]
                assert states == [State.UNLOADED] * 3 + [State.ACTIVE, State.STANDBY]

        run(scenario)

    def test_weights_that_are_not_taken_are_loaded_instead(
        self, publish: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            publish("night0", refittable=True)
            async with following() as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                machine.takes_weights = False
                third = publish("night2", refittable=True, shift=0.2)
                with capture_logs() as logs:
                    assert await follower.refresh() is True
                assert [entry["reason"] for entry in logs if entry["event"] == "refit_refused"]
                assert serving(follower) == (third, "tensorrt_rtx", 3)
                assert len(machine.deserialized) == 3

        run(scenario)

    def test_a_twin_that_computes_otherwise_afterwards_is_thrown_away(
        self, publish: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            publish("night0", refittable=True)
            async with following() as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                # The library says that it is done, and has left some weights as they were.
                machine.monkeypatch.setattr(TensorRtEngine, "refit", lambda _engine, _model: None)
                third = publish("night2", refittable=True, shift=0.2)
                with capture_logs() as logs:
                    assert await follower.refresh() is True
                [reason] = [entry["reason"] for entry in logs if entry["event"] == "refit_refused"]
                assert "outputs differ from the golden ones" in reason
                assert serving(follower) == (third, "tensorrt_rtx", 3)
                assert len(machine.deserialized) == 3

        run(scenario)

    def test_native_code_that_raises_something_else_does_no_harm(
        self, publish: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            def refit(*_: object) -> None:
                raise RuntimeError("factory function returned nullptr")

            publish("night0", refittable=True)
            async with following() as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                machine.monkeypatch.setattr("engines.tensorrt_engine.refit", refit)
                third = publish("night2", refittable=True, shift=0.2)
                assert await follower.refresh() is True
                assert serving(follower) == (third, "tensorrt_rtx", 3)
                assert machine.opened[0]._closed

        run(scenario)

    def test_a_bad_night_does_not_cost_what_stands_by(
        self, publish: Publish, following: Any, trials: Trials, machine: Machine
    ) -> None:
        async def scenario() -> None:
            trials.go.set()
            first = publish("night0", refittable=True)
            async with following(trial=True) as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                trials.refuses = "it crashed"
                publish("bad", refittable=True, shift=0.2, off=1.0)
                assert await follower.refresh() is False
                assert (follower.status().standby, machine.refits) == (first, [])
                await follower.rollback(now=NOW)
                assert follower.live_id == first

        run(scenario)

    def test_one_that_was_taken_and_is_not_needed_any_more_is_closed(
        self, publish: Publish, following: Any, machine: Machine
    ) -> None:
        async def scenario() -> None:
            publish("night0", refittable=True)
            async with following() as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                publish("night2", refittable=True, shift=0.2)
                busy = threading.Event()
                follower._loader.dispose(lambda: (busy.wait(30), None)[1])
                moving = asyncio.create_task(follower.refresh())
                await until(lambda: follower.status().standby is None)
                await asyncio.sleep(0.1)
                moving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await moving
                busy.set()
                await until(lambda: machine.opened[0]._closed)
                assert not machine.opened[1]._closed

        run(scenario)

    def test_whether_the_weights_fit_is_known_without_reading_them(
        self, publish: Publish, store: Store, machine: Machine
    ) -> None:
        model = store.path(publish("night0", refittable=True)) / ENGINE
        other = store.path(publish("night1", refittable=True, shift=0.1)) / ENGINE
        engine = machine.open(FP32, model, compiled=None, threads=1)
        # Not part of what a live miner installs.
        machine.monkeypatch.setitem(sys.modules, "onnx", None)
        assert isinstance(engine, Refittable)
        assert engine.takes(other)
        assert not engine.takes(other.with_name("nothing") / ENGINE)

    @pytest.mark.parametrize(
        "second", [{"refittable": False}, {"refittable": True, "heads": ("head.works",)}], ids=["sealed", "other graph"]
    )
    def test_only_a_plan_of_the_same_graph_that_was_built_for_it(
        self, publish: Publish, following: Any, machine: Machine, second: dict[str, Any]
    ) -> None:
        async def scenario() -> None:
            publish("night0", **({"refittable": True} | {k: v for k, v in second.items() if k == "refittable"}))
            async with following() as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                publish("night2", refittable=True, shift=0.2, **{k: v for k, v in second.items() if k == "heads"})
                await follower.refresh()
                assert machine.refits == []

        run(scenario)

    def test_one_that_still_answers_is_left_alone(
        self, publish: Publish, following: Any, machine: Machine, plain_images: Callable[..., Any]
    ) -> None:
        async def scenario() -> None:
            publish("night0", refittable=True)
            async with following() as follower:
                with follower.slot.lease() as lease:
                    publish("night1", refittable=True, shift=0.1)
                    await follower.refresh()
                    third = publish("night2", refittable=True, shift=0.2)
                    await follower.refresh()
                    assert machine.refits == []
                    assert follower.live_id == third
                    lease.bundle.engine.infer(plain_images([[1, 2, 3]]))

        run(scenario)


def test_tensorrt_engines_can_be_refitted() -> None:
    assert issubclass(TensorRtEngine, Refittable)
    assert not issubclass(OnnxEngine, Refittable)


def test_the_compiler_says_why_it_cannot(store: Store, publish_plain: Publish, tmp_path: Path) -> None:
    checked = check_bundle(store.path(publish_plain("plain")))
    workshop = Workshop(tmp_path / "workshop", find=lambda: GPU)
    bf16 = FP32.model_copy(update={"precision": "bf16"})
    misfit = workshop.misfit(checked, bf16)
    assert misfit is not None
    assert misfit.why == "the bundle holds no plan of tensorrt cuda bf16"
    with pytest.raises(BundleRefused, match=r"model\.bf16\.onnx"):
        workshop.build(checked, bf16, misfit, Child())
    assert built(tmp_path) == []
