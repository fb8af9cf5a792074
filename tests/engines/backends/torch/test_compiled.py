"""What AOTInductor compiles: on this CPU, and up to the border of the library."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from engines.backends.backend import CompileOptions  # noqa: E402
from engines.backends.onnxruntime import OnnxEngine  # noqa: E402
from engines.backends.torch import backend as torch_backend  # noqa: E402
from engines.backends.torch.aot_package import DESCRIPTION, PACKAGE, Machine, PackageDescription, describe_package  # noqa: E402
from engines.backends.torch.backend import TorchCompiled  # noqa: E402
from engines.backends.torch.compiled import TorchEngine, _ports  # noqa: E402
from engines.backends.torch.graph import OnnxModule  # noqa: E402
from engines.errors import BuildFailed, BundleRefused, InferenceError, Unavailable  # noqa: E402
from engines.machine.gpu import NoGpu  # noqa: E402
from engines.spec import EngineSpec  # noqa: E402
from tests.support.tensorrt import GPU  # noqa: E402

CPU, CUDA = EngineSpec(backend="torch"), EngineSpec(backend="torch", device="cuda", precision="bf16")
NO_GPU = NoGpu(reason="no driver")
COLOURS = np.random.default_rng(0).integers(0, 256, (70, 3))
Images = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def model(tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A graph with a package whose library computes as the graph does, without a compiler."""
    path = tmp_path / "model.onnx"
    shutil.copy(tiny_engine, path)
    (tmp_path / PACKAGE).write_bytes(b"a shared library")
    describe_package(tmp_path, CPU, path, Machine.here(torch.__version__, None), *_ports(path))
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: OnnxModule(path))
    return path


def opened(model: Path, spec: EngineSpec = CPU) -> TorchEngine:
    return TorchEngine(model, spec, compiled=None, threads=1, find=lambda: NO_GPU)


def change(model: Path, **changes: Any) -> None:
    path = model.with_name(DESCRIPTION)
    PackageDescription.read(path).model_copy(update=changes).write(path)


@pytest.mark.slow
def test_a_vision_transformer_compiled_on_this_cpu_says_what_the_reference_says(
    small_dinov3: Path, photographs: NDArray[np.uint8], tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    found = TorchCompiled(lambda: NO_GPU)
    found.compile(CPU, small_dinov3, tmp_path, CompileOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == [PACKAGE, DESCRIPTION]
    engine, reference = found.open(CPU, small_dinov3, compiled=tmp_path, threads=1), OnnxEngine(small_dinov3, threads=1)
    for count in (1, 3, 8, 32):
        ours, theirs = engine.infer(photographs[:count]), reference.infer(photographs[:count])
        assert ours.logits == pytest.approx(theirs.logits, abs=1e-5)
        assert ours.select_score == pytest.approx(theirs.select_score, abs=1e-5)
        assert ours.heads["works"] == pytest.approx(theirs.heads["works"], abs=1e-5)
    engine.close()


class TestEngine:
    @pytest.mark.parametrize("count", [1, 3, 33, 70])
    def test_says_what_the_library_says(self, model: Path, plain_images: Images, count: int) -> None:
        images = plain_images(COLOURS[:count])
        expected = OnnxEngine(model, threads=1).infer(images)
        assert opened(model).infer(images).logits == pytest.approx(expected.logits, abs=1e-5)

    def test_what_it_was_not_built_for_is_an_engine_error(self, model: Path, plain_images: Images) -> None:
        others: list[Any] = [plain_images(COLOURS[:2], size_px=48), plain_images(COLOURS[:2]).astype(np.float32)]
        for batch in others:
            with pytest.raises(InferenceError, match="torch failed on a batch of shape"):
                opened(model).infer(batch)

    def test_a_failure_of_torch_is_an_engine_error(
        self, model: Path, plain_images: Images, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(_images: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: fails)
        with pytest.raises(InferenceError, match="out of memory"):
            opened(model).infer(plain_images(COLOURS[:1]))

    def test_a_closed_engine_says_so(self, model: Path, plain_images: Images) -> None:
        engine = opened(model)
        engine.warm_up(2)
        engine.close()
        with pytest.raises(InferenceError, match="closed"):
            engine.infer(plain_images(COLOURS[:1]))

    def test_says_what_it_is(self, model: Path) -> None:
        described = opened(model).describe()
        assert (described.spec, described.shape, described.threads) == (CPU, (32, 32), 1)
        assert str(described).startswith("torch 2.")


class TestPackage:
    def test_that_changed_is_not_loaded(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: pytest.fail("it was loaded"))
        model.with_name(PACKAGE).write_bytes(b"another library")
        with pytest.raises(BundleRefused, match=r"engine\.pt2 is not the file that engine\.pt2\.json describes"):
            opened(model)

    def test_of_another_graph_is_refused(self, model: Path) -> None:
        change(model, onnx_sha256="0" * 64)
        with pytest.raises(BundleRefused, match=r"compiled from another graph than model\.onnx"):
            opened(model)

    def test_of_another_engine_is_refused(self, model: Path) -> None:
        change(model, spec=CUDA)
        with pytest.raises(BundleRefused, match="compiled for torch cuda bf16, asked for is torch cpu fp32"):
            opened(model)

    @pytest.mark.parametrize("field", ["torch", "platform", "cpu", "gpu"])
    def test_of_another_machine_is_to_be_compiled_anew(self, model: Path, field: str) -> None:
        change(model, machine=Machine.here(torch.__version__, None).model_copy(update={field: "another"}))
        with pytest.raises(Unavailable, match=rf"must be compiled anew for this machine: {field} another, here"):
            opened(model)

    def test_that_is_not_there_is_refused(self, tiny_engine: Path) -> None:
        with pytest.raises(BundleRefused, match=r"engine\.pt2\.json"):
            opened(tiny_engine)


class TestBackend:
    def test_compares_a_bundle_with_this_machine(self, model: Path) -> None:
        found = TorchCompiled()
        assert found.mismatch(CPU, model.parent, held=True, find=lambda: NO_GPU) is None
        absent = found.mismatch(CPU, model.parent, held=False, find=lambda: NO_GPU)
        assert absent is not None
        assert absent.why == "the bundle holds no package of torch cpu fp32"
        change(model, machine=Machine.here("2.0.0", None))
        other = found.mismatch(CPU, model.parent, held=True, find=lambda: NO_GPU)
        assert other is not None
        assert other.why.startswith("torch 2.0.0, here ")
        assert found.mismatch(CUDA, model.parent, held=False, find=lambda: NO_GPU) is None
        assert found.mismatch(CUDA, model.parent, held=False, find=lambda: GPU) is not None

    def test_without_a_compiler_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(Unavailable, match=r"compiles with a C\+\+ compiler, and there is none: apt-get install g"):
            TorchCompiled().check(CPU)

    def test_without_torch_says_so(self, monkeypatch: pytest.MonkeyPatch, tiny_engine: Path) -> None:
        def missing(name: str) -> str:
            raise PackageNotFoundError(name)

        monkeypatch.setattr(torch_backend, "version", missing)
        with pytest.raises(Unavailable, match="torch is not installed"):
            TorchCompiled().check(CPU)
        assert TorchCompiled().mismatch(CPU, tiny_engine.parent, held=False, find=lambda: NO_GPU) is None

    @pytest.mark.skipif(torch.version.cuda is not None, reason="this torch was built for CUDA")
    def test_a_build_for_a_cpu_computes_on_no_gpu(self) -> None:
        with pytest.raises(Unavailable, match="was built without CUDA"):
            TorchCompiled().check(CUDA)

    def test_a_graph_that_it_cannot_compile_leaves_nothing(
        self, tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_given: Any, **_named: Any) -> None:
            raise RuntimeError("long story\nno such thing")

        monkeypatch.setattr(torch.export, "export", fails)
        with pytest.raises(BuildFailed, match=r"torch cannot compile .*: no such thing"):
            TorchCompiled(lambda: NO_GPU).compile(CPU, tiny_engine, tmp_path, CompileOptions())
        assert list(tmp_path.iterdir()) == []
