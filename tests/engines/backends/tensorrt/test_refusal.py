"""Every way in which a plan is refused before it runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import engines.backends.tensorrt.engine
from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import open_engine
from engines.backends.tensorrt.build import Plan, build_plan
from engines.backends.tensorrt.engine import TensorRtEngine, check_machine, deserialize
from engines.backends.tensorrt.library import Flavour
from engines.backends.tensorrt.plan import DESCRIPTION, PLAN, Fingerprint, PlanDescription
from engines.backends.tensorrt.refit import check_refit
from engines.errors import BundleRefused
from engines.machine.gpu import Gpu, find_gpu
from engines.spec import EngineSpec
from tests.support.tensorrt import BF16, FP32, GPU

SIZE_PX = 32
HERE = find_gpu()

without_gpu = pytest.mark.skipif(isinstance(HERE, Gpu), reason="there is a GPU")
WriteOnnx = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, tiny_engine: Path, plan: Plan) -> Path:
    """A graph with its plan beside it; returns the graph."""
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_engine.read_bytes())
    plan.write(tmp_path)
    return model


def rewrite(description: Path, **changes: object) -> None:
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | changes))


class TestRefusal:
    """Each leaves this process alive, and none shows the plan to the library."""

    @pytest.fixture(autouse=True)
    def never_deserialized(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def shown(*_: object) -> None:
            raise AssertionError("the library was shown the plan")

        monkeypatch.setattr(engines.backends.tensorrt.engine, "deserialize", shown)

    @pytest.mark.parametrize("name", [PLAN, DESCRIPTION, "model.onnx"])
    def test_of_a_file_that_is_not_there(self, home: Path, name: str) -> None:
        home.with_name(name).unlink()
        with pytest.raises(BundleRefused, match="cannot be read"):
            open_engine(FP32, home)

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "junk", "longer"])
    def test_of_a_damaged_plan(self, home: Path, damage: str) -> None:
        path = home.with_name(PLAN)
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[len(content) // 2] ^= 1
        damaged: dict[str, bytes | bytearray] = {
            "truncated": content[: len(content) // 2],
            "flipped": content,
            "empty": b"",
            "junk": b"not a plan",
            "longer": content + b"\0",
        }
        path.write_bytes(damaged[damage])
        with pytest.raises(BundleRefused, match="is not the file that"):
            open_engine(FP32, home)

    def test_of_a_wrong_hash(self, home: Path) -> None:
        rewrite(home.with_name(DESCRIPTION), plan_sha256="0" * 64)
        with pytest.raises(BundleRefused, match="is not the file that"):
            open_engine(FP32, home)

    def test_of_another_models_plan(self, home: Path, write_onnx: WriteOnnx, flavour: Flavour, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        made = build_plan(write_onnx(other / "model.onnx", shift=1.0), flavour=flavour)
        home.with_name(PLAN).write_bytes(made.content)
        with pytest.raises(BundleRefused, match="is not the file that"):
            open_engine(FP32, home)
        made.write(home.parent)
        with pytest.raises(BundleRefused, match="built from another graph"):
            open_engine(FP32, home)

    def test_of_another_precision(self, home: Path) -> None:
        with pytest.raises(BundleRefused, match="computes in fp32, asked for is bf16"):
            open_engine(BF16, home)

    def test_of_another_device(self, home: Path) -> None:
        with pytest.raises(BundleRefused, match="ask for the device cuda"):
            open_engine(EngineSpec(backend="tensorrt"), home)

    @pytest.mark.parametrize("content", ["{}", "not json", '{"schema_version": 99}'])
    def test_of_a_description_that_is_none(self, home: Path, content: str) -> None:
        home.with_name(DESCRIPTION).write_text(content)
        with pytest.raises(BundleRefused, match="PlanDescription"):
            open_engine(FP32, home)

    @pytest.mark.parametrize("change", [{"version": "1.6.0.1"}, {"platform": "linux-aarch64"}])
    def test_of_a_plan_for_another_machine(self, home: Path, change: dict[str, str]) -> None:
        described = PlanDescription.read(home.with_name(DESCRIPTION))
        fingerprint = described.fingerprint.model_copy(update=change)
        described.model_copy(update={"fingerprint": fingerprint}).write(home.with_name(DESCRIPTION))
        (name, value), *_ = change.items()
        with pytest.raises(BundleRefused, match=f"built anew for this machine: {name} {value}, here"):
            open_engine(FP32, home)

    def test_of_a_plan_of_a_library_that_is_not_installed(self, home: Path) -> None:
        described = PlanDescription.read(home.with_name(DESCRIPTION))
        fingerprint = described.fingerprint.model_copy(update={"flavour": "tensorrt"})
        described.model_copy(update={"fingerprint": fingerprint}).write(home.with_name(DESCRIPTION))
        if importlib.util.find_spec("tensorrt"):
            pytest.skip("it is installed")
        with pytest.raises(BundleRefused, match=r"pip install 'streetvision-cascade\[trt\]'"):
            open_engine(FP32, home)

    @without_gpu
    def test_where_there_is_no_gpu(self, home: Path) -> None:
        with pytest.raises(BundleRefused, match="needs a GPU, and there is none"):
            open_engine(FP32, home)

    @pytest.mark.parametrize(
        ("here", "why"),
        [
            ({"name": "Another GPU"}, "gpu Some GPU, here Another GPU"),
            ({"compute_capability": "9.0"}, "compute_capability 8.6, here 9.0"),
            ({"driver": "12.8"}, "driver_major 13, here 12"),
            ({"free_bytes": 1}, "has 1 free"),
        ],
    )
    def test_of_a_plan_for_another_gpu(self, plan: Plan, flavour: Flavour, here: dict[str, object], why: str) -> None:
        built = plan.description.model_copy(
            update={"fingerprint": Fingerprint.here("tensorrt_rtx", flavour.version, GPU)}
        )
        assert check_machine(built, flavour, lambda: GPU) == GPU
        with pytest.raises(BundleRefused, match=why):
            check_machine(built, flavour, lambda: GPU.model_copy(update=here))

    def test_of_a_refit_of_a_plan_that_was_not_built_for_it(self, plan: Plan) -> None:
        with pytest.raises(BundleRefused, match="not built to be refitted"):
            check_refit(plan.description, plan.description)

    def test_of_a_refit_with_another_graph(
        self, plan: Plan, tmp_path: Path, flavour: Flavour, write_onnx: WriteOnnx
    ) -> None:
        refittable = plan.description.model_copy(update={"refittable": True})
        check_refit(refittable, plan.description)
        weights = build_plan(write_onnx(tmp_path / "weights.onnx", shift=1.0), flavour=flavour)
        check_refit(refittable, weights.description)
        graph = build_plan(write_onnx(tmp_path / "graph.onnx", heads=("head.works",)), flavour=flavour)
        for other in (graph.description, weights.description.model_copy(update={"precision": "bf16"})):
            with pytest.raises(BundleRefused, match="another graph"):
                check_refit(refittable, other)


@without_gpu
class TestLibraryWithoutGpu:
    """What TensorRT-RTX itself does with a plan here; TensorRT would take the process down."""

    def test_refuses_by_the_header(self, plan: Plan, flavour: Flavour) -> None:
        with pytest.raises(BundleRefused, match=r"not valid on this GPU: .*cudaError 35"):
            deserialize(flavour, plan.content)

    @pytest.mark.parametrize(("most", "why"), [(None, "cudaError 35"), (1000, r"header\.size"), (0, ".+")])
    def test_gives_nothing_and_its_reasons(self, plan: Plan, flavour: Flavour, most: int | None, why: str) -> None:
        unasked = dataclasses.replace(flavour, name="tensorrt")
        with pytest.raises(BundleRefused, match=f"does not load {PLAN}: .*{why}"):
            deserialize(unasked, plan.content[:most])


def test_an_engine_for_a_gpu_that_only_seems_to_be_there_is_refused(home: Path) -> None:
    if isinstance(HERE, Gpu):
        pytest.skip("there is a GPU")
    with pytest.raises(BundleRefused, match=r"cuda-bindings|not valid on this GPU"):
        TensorRtEngine(home, FP32, find=lambda: GPU)


def test_the_graph_beside_a_plan_still_runs_on_the_reference(home: Path) -> None:
    assert OnnxEngine(home, threads=1).infer(np.zeros((1, 3, SIZE_PX, SIZE_PX), np.uint8)).logits.shape == (1, 2)
