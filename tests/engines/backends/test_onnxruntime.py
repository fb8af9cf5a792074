from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import open_engine
from engines.errors import BundleRefused, InferenceError
from engines.machine.cores import usable_cores
from engines.spec import EngineSpec
from stage1.errors import OutputsError

Images = Callable[..., NDArray[np.uint8]]
WriteOnnx = Callable[..., Path]
AtOnce = Callable[..., None]
CHILD, ROOT = Path(__file__).with_name("quiet_child.py"), Path(__file__).parents[3]
STRACE = shutil.which("strace")
COLOURS = np.random.default_rng(0).integers(0, 256, (17, 3))


def heads_of(colours: NDArray[np.integer]) -> NDArray[np.float64]:
    """What the tiny engine says of plain images, in double precision."""
    red, green, blue = colours.astype(np.float64).T
    return np.stack([0.02 * (blue - red), 0.02 * (red - blue), 0.04 * green], axis=1)


class TestInfer:
    @pytest.mark.parametrize("count", [1, 2, 17])
    def test_maps_images_to_outputs(self, tiny_engine: Path, plain_images: Images, count: int) -> None:
        outputs = OnnxEngine(tiny_engine, threads=1).infer(plain_images(COLOURS[:count]))
        expected = heads_of(COLOURS[:count])
        assert outputs.logits == pytest.approx(expected[:, :2], abs=1e-4)
        assert outputs.select_score == pytest.approx(expected[:, 2], abs=1e-4)

    def test_named_heads_are_further_outputs(self, tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images) -> None:
        path = write_onnx(tmp_path / "heads.onnx", heads=("head.works", "head.severity"))
        outputs = OnnxEngine(path, threads=1).infer(plain_images(COLOURS))
        assert set(outputs.heads) == {"works", "severity"}
        assert np.array_equal(outputs.heads["works"], outputs.logits)

    def test_may_be_called_from_several_threads(self, tiny_engine: Path, plain_images: Images, at_once: AtOnce) -> None:
        engine, batch = OnnxEngine(tiny_engine, threads=1), plain_images(COLOURS)
        expected = engine.infer(batch)
        wrong: list[int] = []

        def ask(worker: int) -> None:
            answers = (engine.infer(batch).logits for _ in range(30))
            wrong.extend(worker for logits in answers if not np.array_equal(logits, expected.logits))

        at_once(ask)
        assert wrong == []

    def test_numbers_that_are_none_are_refused(
        self, tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images
    ) -> None:
        engine = OnnxEngine(write_onnx(tmp_path / "nan.onnx", shift=float("nan")), threads=1)
        with pytest.raises(OutputsError, match="logits contain NaN"):
            engine.infer(plain_images(COLOURS[:2]))

    def test_a_batch_it_was_not_built_for_is_an_engine_error(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = OnnxEngine(tiny_engine, threads=1)
        with pytest.raises(InferenceError, match=r"failed on a batch of shape \(17, 3, 48, 48\)"):
            engine.infer(plain_images(COLOURS, size_px=48))
        with pytest.raises(InferenceError, match="failed on a batch"):
            engine.infer(plain_images(COLOURS).astype(np.float32))

    def test_a_closed_engine_says_so(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = OnnxEngine(tiny_engine, threads=1)
        engine.close()
        with pytest.raises(InferenceError, match="closed"):
            engine.infer(plain_images(COLOURS))
        engine.close()


class TestWarmUp:
    def test_leaves_the_answers_as_they_are(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = OnnxEngine(tiny_engine, threads=1)
        before = engine.infer(plain_images(COLOURS)).logits
        engine.warm_up(2)
        assert np.array_equal(engine.infer(plain_images(COLOURS)).logits, before)

    def test_finds_a_graph_that_cannot_be_batched(self, tmp_path: Path, write_onnx: WriteOnnx) -> None:
        engine = OnnxEngine(write_onnx(tmp_path / "single.onnx", only_batch=1), threads=1)
        with pytest.raises(InferenceError, match=r"failed on a batch of shape \(2, 3"):
            engine.warm_up(2)


class TestDescription:
    def test_tells_runtime_size_and_threads(self, tmp_path: Path, write_onnx: WriteOnnx) -> None:
        described = OnnxEngine(write_onnx(tmp_path / "a.onnx", size_px=48), threads=2).describe()
        assert described.runtime.startswith("onnxruntime ")
        assert (described.shape, described.threads) == ((48, 48), 2)
        assert described.details == {"provider": "CPUExecutionProvider"}

    def test_a_rectangle_is_not_taken_for_the_one_that_stands(
        self, tmp_path: Path, write_onnx: WriteOnnx, plain_images: Images
    ) -> None:
        engine = OnnxEngine(write_onnx(tmp_path / "a.onnx", size_px=48, width_px=80), threads=1)
        assert engine.describe().shape == (48, 80)
        engine.warm_up(2)
        assert len(engine.infer(plain_images(COLOURS, 48, 80))) == len(COLOURS)
        with pytest.raises(InferenceError, match=r"failed on a batch of shape \(17, 3, 80, 48\)"):
            engine.infer(plain_images(COLOURS, 80, 48))

    def test_uses_every_core_it_may_run_on_by_default(self, tiny_engine: Path) -> None:
        assert OnnxEngine(tiny_engine).describe().threads == usable_cores() >= 1


class TestRefusal:
    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" + bytes(50)])
    def test_of_what_is_not_onnx(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(BundleRefused, match=r"model\.onnx"):
            OnnxEngine(tmp_path / "model.onnx")

    def test_of_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BundleRefused, match="cannot load it"):
            OnnxEngine(tmp_path / "model.onnx")

    def test_of_half_a_file(self, tmp_path: Path, tiny_engine: Path) -> None:
        content = tiny_engine.read_bytes()
        (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2])
        with pytest.raises(BundleRefused):
            OnnxEngine(tmp_path / "model.onnx")

    def test_of_other_inputs_or_outputs(
        self, tmp_path: Path, write_onnx: WriteOnnx, other_ports: dict[str, object]
    ) -> None:
        with pytest.raises(BundleRefused, match="expected"):
            OnnxEngine(write_onnx(tmp_path / "other.onnx", **other_ports))

    @pytest.mark.parametrize(
        "other",
        [{"precision": "bf16"}, {"device": "cuda"}, {"precision": "int8", "device": "cuda"}],
    )
    def test_of_what_it_does_not_compute(self, tiny_engine: Path, other: dict[str, str]) -> None:
        with pytest.raises(BundleRefused, match="on a GPU it is the backend onnxruntime-cuda"):
            OnnxEngine(tiny_engine, EngineSpec.model_validate(other))


class TestOpening:
    def test_by_the_spec(self, tiny_engine: Path, plain_images: Images) -> None:
        engine = open_engine(EngineSpec(), tiny_engine, threads=1)
        assert engine.describe().spec == EngineSpec()
        assert len(engine.infer(plain_images(COLOURS[:3]))) == 3

    def test_of_a_runtime_that_is_not_installed(self, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(BundleRefused, match=r"not installed.*pip install '\.\[openvino\]'"):
            open_engine(EngineSpec(backend="openvino"), tiny_engine)

    def test_of_a_plan_that_is_not_there(self, tiny_engine: Path) -> None:
        with pytest.raises(BundleRefused, match=r"engine\.json: cannot be read"):
            open_engine(EngineSpec(backend="tensorrt", device="cuda"), tiny_engine)


class TestReports:
    """ONNX Runtime writes an id below the home directory and sends events, unless it is told not to."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        """An empty directory, in which everything is that a process can be told to write into."""
        (tmp_path / "home").mkdir()
        return tmp_path / "home"

    def run(self, home: Path, model: Path, *before: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
        places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
        done = subprocess.run(
            [*before, sys.executable, "-B", str(CHILD), str(model)],
            cwd=home,
            env=kept | places | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout

    def test_nothing_is_written(self, home: Path, tiny_engine: Path) -> None:
        assert self.run(home, tiny_engine) == "2 images\n"
        assert list(home.rglob("*")) == []

    @pytest.mark.skipif(STRACE is None, reason="strace, which sees the sockets of native code, is not installed")
    def test_no_connection_is_opened(self, home: Path, tiny_engine: Path, tmp_path: Path) -> None:
        calls = tmp_path / "calls"
        traced = (str(STRACE), "-f", "-qq", "-e", "trace=%network", "-o", str(calls))
        assert self.run(home, tiny_engine, *traced) == "2 images\n"
        assert calls.read_text() == ""
