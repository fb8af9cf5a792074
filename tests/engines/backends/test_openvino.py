from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.openvino import OpenVinoEngine
from engines.backends.registry import open_engine
from engines.errors import BundleRefused, InferenceError
from engines.machine.cores import usable_cores
from engines.spec import EngineSpec, Precision
from stage1.errors import OutputsError
from stage1.outputs import Stage1Outputs

if importlib.util.find_spec("openvino") is None:
    # `importorskip` would import it, and that sends a report to its makers.
    pytest.skip("openvino is not installed", allow_module_level=True)

Images = Callable[..., NDArray[np.uint8]]
WriteOnnx = Callable[..., Path]
COLOURS = np.random.default_rng(0).integers(0, 256, (32, 3))
CHILD = Path(__file__).with_name("openvino_child.py")
ROOT = Path(__file__).parents[3]


def spec(precision: Precision = "fp32") -> EngineSpec:
    return EngineSpec(backend="openvino", precision=precision)


def apart(ours: Stage1Outputs, theirs: Stage1Outputs) -> float:
    """Largest difference of any output, as a share of the largest number in that output."""
    assert list(ours.heads) == list(theirs.heads)
    pairs = [(ours.logits, theirs.logits), (ours.select_score, theirs.select_score)]
    pairs += [(ours.heads[name], theirs.heads[name]) for name in theirs.heads]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def in_a_process(directory: Path, model: Path, precision: str, **environment: str) -> str:
    """What `openvino_child.py` says, with an empty directory as its home and its working directory."""
    done = subprocess.run(
        [sys.executable, str(CHILD), str(model), precision],
        cwd=directory,
        env={**os.environ, "HOME": str(directory), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bf16() -> None:
    """For tests that multiply in it."""
    if not {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()):
        pytest.skip("this CPU has no bf16 arithmetic")


class TestParity:
    def test_with_the_reference_at_every_batch_size(self, tiny_engine: Path, plain_images: Images) -> None:
        engine, reference = OpenVinoEngine(tiny_engine, spec(), threads=1), OnnxEngine(tiny_engine, threads=1)
        batch = plain_images(COLOURS)
        assert max(apart(engine.infer(batch[:n]), reference.infer(batch[:n])) for n in range(1, 33)) < 1e-4

    def test_of_a_real_export_at_every_batch_size(self, small_dinov3: Path, photographs: NDArray[np.uint8]) -> None:
        engine, reference = OpenVinoEngine(small_dinov3, spec(), threads=2), OnnxEngine(small_dinov3, threads=2)
        assert list(engine.infer(photographs[:1]).heads) == ["works"]
        # Each size comes after a smaller and after a larger one.
        sizes = [*range(1, 33), *range(31, 0, -1)]
        worst = max(apart(engine.infer(photographs[-n:]), reference.infer(photographs[-n:])) for n in sizes)
        assert worst < 1e-4

    def test_of_weights_that_lie_beside_the_graph(
        self, small_dinov3: Path, weights_beside: Path, photographs: NDArray[np.uint8]
    ) -> None:
        engine, whole = OpenVinoEngine(weights_beside, spec()), OpenVinoEngine(small_dinov3, spec())
        assert np.array_equal(engine.infer(photographs).logits, whole.infer(photographs).logits)

    @pytest.mark.usefixtures("bf16")
    def test_in_bf16_is_near_and_not_exact(self, small_dinov3: Path, photographs: NDArray[np.uint8]) -> None:
        engine, reference = OpenVinoEngine(small_dinov3, spec("bf16")), OnnxEngine(small_dinov3)
        for n in (1, 2, 17, 32):
            assert 1e-4 < apart(engine.infer(photographs[:n]), reference.infer(photographs[:n])) < 0.05


class TestInfer:
    def test_takes_images_that_are_a_part_of_others(self, tiny_engine: Path, plain_images: Images) -> None:
        engine, large = OpenVinoEngine(tiny_engine, spec(), threads=1), plain_images(COLOURS, size_px=64)
        expected = engine.infer(plain_images(COLOURS))
        assert np.array_equal(engine.infer(large[:, :, ::2, ::2]).logits, expected.logits)

    def test_later_batches_leave_earlier_answers_alone(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = OpenVinoEngine(tiny_engine, spec(), threads=1)
        first = engine.infer(plain_images(COLOURS[:2]))
        before = first.logits.copy()
        engine.infer(plain_images(COLOURS[2:4]))
        assert np.array_equal(first.logits, before)

    def test_may_be_called_from_several_threads(
        self, small_dinov3: Path, photographs: NDArray[np.uint8], at_once: Callable[..., None]
    ) -> None:
        engine = OpenVinoEngine(small_dinov3, spec(), threads=1)
        batches = [photographs[start : start + 1 + start % 3] for start in range(8)]
        expected = [engine.infer(batch).logits for batch in batches]
        wrong: list[int] = []

        def ask(worker: int) -> None:
            for turn in range(40):
                number = (worker + turn) % len(batches)
                if not np.array_equal(engine.infer(batches[number]).logits, expected[number]):
                    wrong.append(number)

        at_once(ask)
        assert wrong == []

    def test_numbers_that_are_none_are_refused(
        self, tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images
    ) -> None:
        engine = OpenVinoEngine(write_onnx(tmp_path / "nan.onnx", shift=float("nan")), spec(), threads=1)
        with pytest.raises(OutputsError, match="logits contain NaN"):
            engine.infer(plain_images(COLOURS[:2]))

    def test_a_batch_it_was_not_built_for_is_an_engine_error(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = OpenVinoEngine(tiny_engine, spec(), threads=1)
        with pytest.raises(InferenceError, match=r"failed on a batch of shape \(32, 3, 48, 48\)"):
            engine.infer(plain_images(COLOURS, size_px=48))
        with pytest.raises(InferenceError, match="it is float32, expected uint8"):
            engine.infer(plain_images(COLOURS).astype(np.float32))
        with pytest.raises(InferenceError, match="failed on a batch"):
            engine.infer(plain_images(COLOURS)[0])

    @pytest.mark.parametrize(
        ("graph", "fixed"), [({"only_batch": 1}, "logits, select_score"), ({"batch": 1}, "image, logits, select_score")]
    )
    def test_a_graph_that_cannot_be_batched_is_never_run(
        self, tmp_path: Path, write_onnx: WriteOnnx, graph: dict[str, int], fixed: str
    ) -> None:
        """OpenVINO does run it with more images, and damages the memory of the process."""
        with pytest.raises(BundleRefused, match=f"{fixed} do not take any number of images"):
            OpenVinoEngine(write_onnx(tmp_path / "single.onnx", **graph), spec(), threads=1)

    def test_a_closed_engine_says_so(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = OpenVinoEngine(tiny_engine, spec(), threads=1)
        engine.close()
        with pytest.raises(InferenceError, match="closed"):
            engine.infer(plain_images(COLOURS))
        engine.close()


class TestDescription:
    def test_tells_what_openvino_says_of_itself(self, tiny_engine: Path) -> None:
        described = open_engine(spec(), tiny_engine, threads=1).describe()
        assert described.runtime.startswith("openvino 20")
        assert (described.spec, described.shape, described.threads) == (spec(), (32, 32), 1)
        assert described.details["inference_precision"] == "f32"
        assert described.details["isa"]

    def test_a_rectangle_is_not_taken_for_the_one_that_stands(
        self, tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images
    ) -> None:
        path = write_onnx(tmp_path / "a.onnx", size_px=48, width_px=80)
        engine = OpenVinoEngine(path, spec(), threads=1)
        assert engine.describe().shape == (48, 80)
        engine.warm_up(2)
        seen = plain_images(COLOURS, 48, 80)
        assert np.allclose(engine.infer(seen).logits, OnnxEngine(path, threads=1).infer(seen).logits, atol=1e-5)
        with pytest.raises(InferenceError, match=r"expected uint8 \(N, 3, 48, 80\)"):
            engine.infer(plain_images(COLOURS, 80, 48))

    def test_uses_every_core_it_may_run_on_by_default(self, tiny_engine: Path) -> None:
        assert OpenVinoEngine(tiny_engine, spec()).describe().threads == usable_cores()

    @pytest.mark.usefixtures("bf16")
    def test_tells_of_bf16(self, tiny_engine: Path) -> None:
        assert OpenVinoEngine(tiny_engine, spec("bf16")).describe().details["inference_precision"] == "bf16"


class TestRefusal:
    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" + bytes(50)])
    def test_of_what_is_not_onnx(self, tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(BundleRefused, match=r"model\.onnx"):
            OpenVinoEngine(tmp_path / "model.onnx", spec())
        assert capfd.readouterr() == ("", "")

    def test_of_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BundleRefused, match="cannot load it"):
            OpenVinoEngine(tmp_path / "model.onnx", spec())

    def test_of_half_a_file(self, tmp_path: Path, tiny_engine: Path) -> None:
        content = tiny_engine.read_bytes()
        (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2])
        with pytest.raises(BundleRefused):
            OpenVinoEngine(tmp_path / "model.onnx", spec())

    def test_of_a_graph_whose_weights_are_gone(self, tmp_path: Path, weights_beside: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(weights_beside.read_bytes())
        with pytest.raises(BundleRefused, match="cannot load it"):
            OpenVinoEngine(tmp_path / "model.onnx", spec())

    def test_of_other_inputs_or_outputs(
        self, tmp_path: Path, write_onnx: WriteOnnx, other_ports: dict[str, object]
    ) -> None:
        with pytest.raises(BundleRefused, match="expected"):
            OpenVinoEngine(write_onnx(tmp_path / "other.onnx", **other_ports), spec())

    @pytest.mark.parametrize("other", [{"precision": "int8"}, {"device": "cuda"}])
    def test_of_what_it_does_not_compute(self, tiny_engine: Path, other: dict[str, str]) -> None:
        with pytest.raises(BundleRefused, match="OpenVINO computes fp32 and bf16 on a CPU"):
            OpenVinoEngine(tiny_engine, EngineSpec.model_validate({"backend": "openvino", **other}))

    def test_of_bf16_where_the_cpu_has_none(self, tmp_path: Path, tiny_engine: Path) -> None:
        said = in_a_process(tmp_path, tiny_engine, "bf16", ONEDNN_MAX_CPU_ISA="AVX512_CORE_VNNI")
        assert "BundleRefused: openvino cpu bf16: this CPU has no bf16 arithmetic" in said
        assert "set the precision to fp32" in said


def test_loading_and_running_tells_nobody_and_writes_nothing(tmp_path: Path, tiny_engine: Path) -> None:
    assert in_a_process(tmp_path, tiny_engine, "fp32") == "2 images\n"
    assert list(tmp_path.iterdir()) == []
