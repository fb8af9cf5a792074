"""Sessions whose batches lie in bound buffers, on the CPU provider: the code is the same, and there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from engines.backends.bound_session import BoundEngine
from engines.backends.onnxruntime import OnnxEngine
from engines.batches import BUCKETS
from engines.errors import BundleRefused, InferenceError
from engines.spec import EngineSpec
from stage1.errors import OutputsError

SPEC = EngineSpec(backend="onnxruntime-cuda", device="cuda")
COLOURS = np.random.default_rng(0).integers(0, 256, (70, 3))
Images = Callable[..., NDArray[np.uint8]]
WriteOnnx = Callable[..., Path]


def bound(path: Path) -> BoundEngine:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return BoundEngine(session, SPEC, name=path.name, device="cpu", details={"gpu": "none"})


@pytest.mark.parametrize("count", [1, 2, 3, 8, 17, 32, 33, 70])
def test_says_what_the_reference_says_of_any_number_of_images(
    tiny_engine: Path, plain_images: Images, count: int
) -> None:
    images = plain_images(COLOURS[:count])
    ours, theirs = bound(tiny_engine).infer(images), OnnxEngine(tiny_engine, threads=1).infer(images)
    assert len(ours) == count
    assert ours.logits == pytest.approx(theirs.logits, abs=1e-5)
    assert ours.select_score == pytest.approx(theirs.select_score, abs=1e-5)


def test_named_heads_have_buffers_of_their_own(tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images) -> None:
    path = write_onnx(tmp_path / "heads.onnx", heads=("head.works",))
    found = bound(path).infer(plain_images(COLOURS[:3]))
    assert np.array_equal(found.heads["works"], found.logits)


def test_only_batch_sizes_run_that_golden_images_are_tried_at(tiny_engine: Path, plain_images: Images) -> None:
    session: Any = ort.InferenceSession(str(tiny_engine), providers=["CPUExecutionProvider"])
    seen: list[int] = []
    infer = session.run_with_iobinding

    def run(binding: Any) -> None:
        infer(binding)
        seen.append(len(binding.get_outputs()[0].numpy()))

    session.run_with_iobinding = run
    engine = BoundEngine(session, SPEC, name="a", device="cpu", details={})
    for count in range(1, 40):
        engine.infer(plain_images(COLOURS[:count]))
    assert set(seen) == set(BUCKETS)


def test_an_answer_stays_what_it_was_while_others_ask(tiny_engine: Path, plain_images: Images) -> None:
    engine = bound(tiny_engine)
    first = engine.infer(plain_images(COLOURS[:4]))
    kept = first.logits.copy()
    engine.infer(plain_images(COLOURS[4:8]))
    assert np.array_equal(first.logits, kept)


def test_may_be_called_from_several_threads(
    tiny_engine: Path, plain_images: Images, at_once: Callable[..., None]
) -> None:
    engine = bound(tiny_engine)
    batches = [plain_images(COLOURS[start : start + 5]) for start in range(0, 40, 5)]
    expected = [engine.infer(batch).logits for batch in batches]
    wrong: list[int] = []

    def ask(worker: int) -> None:
        place = worker % len(batches)
        wrong.extend(
            place for _ in range(20) if not np.array_equal(engine.infer(batches[place]).logits, expected[place])
        )

    at_once(ask)
    assert wrong == []


def test_what_it_was_not_built_for_is_an_engine_error(tiny_engine: Path, plain_images: Images) -> None:
    engine = bound(tiny_engine)
    others: list[Any] = [plain_images(COLOURS[:2], size_px=48), plain_images(COLOURS[:2]).astype(np.float32)]
    for batch in others:
        with pytest.raises(InferenceError, match="failed on a batch of shape"):
            engine.infer(batch)


def test_numbers_that_are_none_are_refused(tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images) -> None:
    engine = bound(write_onnx(tmp_path / "nan.onnx", shift=float("nan")))
    with pytest.raises(OutputsError, match="logits contain NaN"):
        engine.infer(plain_images(COLOURS[:2]))


def test_a_failure_of_the_runtime_is_an_engine_error_and_its_buffers_are_left(
    tiny_engine: Path, plain_images: Images
) -> None:
    session: Any = ort.InferenceSession(str(tiny_engine), providers=["CPUExecutionProvider"])
    engine = BoundEngine(session, SPEC, name="a", device="cpu", details={})
    engine.infer(plain_images(COLOURS[:1]))
    run = session.run_with_iobinding

    def fails(_binding: Any) -> None:
        raise RuntimeError("CUDA error 700")

    session.run_with_iobinding = fails
    with pytest.raises(InferenceError, match="CUDA error 700"):
        engine.infer(plain_images(COLOURS[:1]))
    session.run_with_iobinding = run
    assert len(engine.infer(plain_images(COLOURS[:1]))) == 1


def test_a_closed_engine_says_so(tiny_engine: Path, plain_images: Images) -> None:
    engine = bound(tiny_engine)
    engine.warm_up(4)
    engine.close()
    with pytest.raises(InferenceError, match="closed"):
        engine.infer(plain_images(COLOURS[:1]))


def test_says_what_it_is(tiny_engine: Path) -> None:
    described = bound(tiny_engine).describe()
    assert (described.spec, described.shape, described.details) == (SPEC, (32, 32), {"gpu": "none"})
    assert described.runtime == f"onnxruntime {ort.__version__}"


def test_another_models_graph_is_refused(tmp_path: Path, write_onnx: WriteOnnx, other_ports: dict[str, object]) -> None:
    with pytest.raises(BundleRefused, match="expected"):
        bound(write_onnx(tmp_path / "other.onnx", **other_ports))
