"""How an engine on a GPU keeps its books, on a GPU made of host memory: nothing here says that a real one agrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engines.backends.tensorrt.engine
from engines.backends.onnxruntime import OnnxEngine
from engines.backends.tensorrt.build import build_plan
from engines.backends.tensorrt.cuda import Cuda
from engines.backends.tensorrt.engine import TensorRtEngine
from engines.backends.tensorrt.library import Flavour
from engines.backends.tensorrt.plan import DESCRIPTION, PlanDescription
from engines.batches import BUCKETS
from engines.errors import BundleRefused, InferenceError
from stage1.outputs import Stage1Outputs
from tests.support.tensorrt import FP32, GPU

COLOURS = np.random.default_rng(0).integers(0, 256, (70, 3))
Images = Callable[..., NDArray[np.uint8]]
WriteOnnx = Callable[..., Path]


@dataclasses.dataclass
class Bench:
    engine: TensorRtEngine
    cuda: Any
    library: Any
    model: Path


@pytest.fixture
def bench(
    tmp_path: Path,
    write_onnx: WriteOnnx,
    flavour: Flavour,
    host_gpu: Callable[[Path], tuple[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    model = write_onnx(tmp_path / "model.onnx", heads=("head.works", "head.severity"))
    build_plan(model, flavour=flavour).write(tmp_path)
    cuda, library = host_gpu(model)
    monkeypatch.setattr(engines.backends.tensorrt.engine, "Cuda", lambda: Cuda(cuda))
    monkeypatch.setattr(engines.backends.tensorrt.engine, "deserialize", lambda *_: ("VALID", object(), library))
    description = PlanDescription.read(tmp_path / DESCRIPTION)
    fingerprint = description.fingerprint.model_copy(update={"gpu": None})
    description.model_copy(update={"fingerprint": fingerprint}).write(tmp_path / DESCRIPTION)
    return Bench(TensorRtEngine(model, FP32, find=lambda: GPU), cuda, library, model)


def same(ours: Stage1Outputs, theirs: Stage1Outputs) -> bool:
    pairs = [(ours.logits, theirs.logits), (ours.select_score, theirs.select_score)]
    pairs += [(ours.heads[name], theirs.heads[name]) for name in theirs.heads]
    return ours.heads.keys() == theirs.heads.keys() and all(np.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 32, 33, 70])
def test_a_batch_of_any_size_is_filled_up_or_cut(bench: Bench, plain_images: Images, count: int) -> None:
    images = plain_images(COLOURS[:count])
    expected = OnnxEngine(bench.model, threads=1).infer(images)
    assert all(same(bench.engine.infer(images), expected) for _ in range(5))


def test_warm_sizes_are_captured_and_answer_the_same(bench: Bench, plain_images: Images) -> None:
    bench.engine.warm_up(8)
    assert bench.cuda.launches == 4
    assert bench.engine.describe().details["captured"] == "1 2 4 8"
    expected = OnnxEngine(bench.model, threads=1).infer(plain_images(COLOURS[:7]))
    assert same(bench.engine.infer(plain_images(COLOURS[:7])), expected)
    assert bench.cuda.launches == 5
    bench.engine.warm_up(64)
    assert bench.engine.describe().details["captured"] == " ".join(map(str, BUCKETS))


def test_what_cannot_be_captured_runs_as_it_is(bench: Bench, plain_images: Images) -> None:
    bench.library.capture_fails = True
    bench.engine.warm_up(2)
    assert bench.engine.describe().details["captured"] == ""
    assert bench.cuda.launches == 0
    images = plain_images(COLOURS[:2])
    assert same(bench.engine.infer(images), bench.library.reference.infer(images))
    bench.engine.close()
    assert bench.cuda.memory == bench.cuda.handles == {}


def test_threads_do_not_share_a_lane(bench: Bench, plain_images: Images, at_once: Callable[..., None]) -> None:
    wrong: list[int] = []

    def ask(worker: int) -> None:
        images = plain_images(COLOURS[worker : worker + 5])
        expected = bench.library.reference.infer(images)
        wrong.extend(worker for _ in range(20) if not same(bench.engine.infer(images), expected))

    at_once(ask)
    assert wrong == []
    bench.engine.close()
    assert bench.cuda.memory == bench.cuda.handles == {}


def test_closing_frees_everything_once(bench: Bench, plain_images: Images) -> None:
    bench.engine.warm_up(32)
    assert bench.cuda.memory
    bench.engine.close()
    assert bench.cuda.memory == bench.cuda.handles == {}
    with pytest.raises(InferenceError, match="closed"):
        bench.engine.infer(plain_images(COLOURS))
    bench.engine.close()


def test_closing_waits_for_what_is_running(bench: Bench) -> None:
    with bench.engine._lane() as lane:
        bench.engine.close()
        assert lane.infer(np.zeros((1, 3, 32, 32), np.uint8))
    assert bench.cuda.memory == bench.cuda.handles == {}


def test_after_a_failure_the_next_batch_gets_a_fresh_lane(bench: Bench, plain_images: Images) -> None:
    bench.engine.warm_up(1)
    bench.library.fails = True
    with pytest.raises(InferenceError, match="failed on 8 images: execute_async_v3 returned False"):
        bench.engine.infer(plain_images(COLOURS[:5]))
    bench.library.fails = False
    assert bench.cuda.memory == bench.cuda.handles == {}
    assert len(bench.engine.infer(plain_images(COLOURS[:5]))) == 5


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaMemcpyAsync"])
def test_an_error_of_cuda_is_told_and_leaves_nothing(bench: Bench, plain_images: Images, function: str) -> None:
    bench.cuda.broken.add(function)
    with pytest.raises(InferenceError, match=f"{function} failed: cudaErrorUnknown"):
        bench.engine.infer(plain_images(COLOURS[:5]))
    assert bench.cuda.memory == bench.cuda.handles == {}


@pytest.mark.parametrize(
    "batch",
    [np.zeros((0, 3, 32, 32), np.uint8), np.zeros((1, 3, 48, 48), np.uint8), np.zeros((1, 3, 32, 32), np.float32)],
)
def test_a_batch_it_was_not_built_for_is_an_engine_error(bench: Bench, batch: NDArray[Any]) -> None:
    with pytest.raises(InferenceError, match="failed on a batch of shape"):
        bench.engine.infer(batch)


def test_tells_what_it_is(bench: Bench) -> None:
    described = bench.engine.describe()
    assert str(described).startswith("tensorrt_rtx 1.7")
    assert (described.shape, described.details["gpu"], described.details["validity"]) == ((32, 32), "Some GPU", "VALID")


class TestRefit:
    @pytest.fixture
    def answers(self) -> dict[str, Any]:
        return {"file": True, "missing": [], "engine": True}

    @pytest.fixture
    def twin(self, bench: Bench, answers: dict[str, Any]) -> TensorRtEngine:
        refitter = SimpleNamespace(
            get_missing_weights=lambda: answers["missing"], refit_cuda_engine_async=lambda _: answers["engine"]
        )
        parser = SimpleNamespace(refit_from_file=lambda _: answers["file"])
        library = SimpleNamespace(Refitter=lambda *_: refitter, OnnxParserRefitter=lambda *_: parser)
        bench.engine.warm_up(2)
        bench.engine.plan = bench.engine.plan.model_copy(update={"refittable": True})
        bench.engine.flavour = dataclasses.replace(bench.engine.flavour, trt=library)
        return bench.engine

    def test_forgets_what_was_captured(
        self, bench: Bench, twin: TensorRtEngine, tmp_path: Path, write_onnx: WriteOnnx
    ) -> None:
        night = write_onnx(tmp_path / "night.onnx", shift=1.0, heads=("head.works", "head.severity"))
        assert twin.takes(night)
        twin.refit(night)
        assert bench.cuda.memory == bench.cuda.handles == {}
        assert (twin.describe().details["captured"], twin.describe().details["refits"]) == ("", "1")

    @pytest.mark.parametrize("failure", [{"file": False}, {"missing": ["bias"]}, {"engine": False}])
    def test_that_fails_ends_the_twin(
        self, bench: Bench, twin: TensorRtEngine, answers: dict[str, Any], failure: dict[str, Any]
    ) -> None:
        answers.update(failure)
        with pytest.raises(BundleRefused, match="does not take the weights"):
            twin.refit(bench.model)
        with pytest.raises(InferenceError, match="closed"):
            twin.infer(np.zeros((1, 3, 32, 32), np.uint8))
        assert bench.cuda.memory == bench.cuda.handles == {}

    def test_of_an_engine_in_use_is_refused(self, bench: Bench, twin: TensorRtEngine) -> None:
        with twin._lane(), pytest.raises(InferenceError, match="in use"):
            twin.refit(bench.model)
        with pytest.raises(InferenceError, match="closed"):
            twin.refit(bench.model)
