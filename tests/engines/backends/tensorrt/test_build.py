"""Real builds by TensorRT-RTX, which needs no GPU for them."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError
from structlog.testing import capture_logs

from engines.backends.graph_facts import broken_facts
from engines.backends.tensorrt.build import Plan, _timing, build_plan, cache_name, forbid_known_wrong
from engines.backends.tensorrt.layers import fused_attentions, layers_of_log
from engines.backends.tensorrt.library import Flavour, LayerListing
from engines.backends.tensorrt.plan import BatchProfile, Fingerprint, graph_sha256, read_plan
from engines.errors import BuildFailed, BundleRefused
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.spec import twin
from offline.certify.onnx_export import export_bf16, export_onnx
from offline.learning.predict import predict
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone, RandomBackbone
from tests.support.tensorrt import BF16, FP32, GPU

SIZE_PX = 32
HERE = find_gpu()

without_gpu = pytest.mark.skipif(isinstance(HERE, Gpu), reason="there is a GPU")
WriteOnnx = Callable[..., Path]


def dino(seed: int = 0) -> Stage1Net:
    backbone = RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8)
    return build(ModelSettings(backbone=backbone, last_layers=None), shape=(SIZE_PX, SIZE_PX), seed=seed)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `dino()`."""
    path = tmp_path_factory.mktemp("reference") / "model.onnx"
    export_onnx(dino(), path, (SIZE_PX, SIZE_PX))
    return path


@pytest.fixture(scope="module")
def in_bf16(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stage1Net]:
    """The export of the twin of `dino()`, and the network that it was made of."""
    path, net = twin(tmp_path_factory.mktemp("twin") / "model.onnx", "bf16"), dino()
    export_bf16(net, path, (SIZE_PX, SIZE_PX))
    return path, net


class TestExport:
    def test_of_a_twin_computes_in_bf16_and_is_asked_and_answers_as_the_reference(
        self, in_bf16: tuple[Path, Stage1Net]
    ) -> None:
        path, net = in_bf16
        before = dino().state_dict()
        graph = onnx.load(path).graph
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        assert all(kind == onnx.TensorProto.BFLOAT16 for name, kind in kinds.items() if name.endswith("proj.weight"))
        assert onnx.TensorProto.BFLOAT16 in kinds.values()
        # What reads the pixels: the standard has it in bf16 since opset 22 only.
        assert [kinds[node.input[1]] for node in graph.node if node.op_type == "Conv"] == [onnx.TensorProto.FLOAT]
        assert broken_facts(path) == []
        onnx.checker.check_model(str(path), full_check=True)
        assert [(i.name, i.type.tensor_type.elem_type) for i in graph.input] == [("image", onnx.TensorProto.UINT8)]
        assert {o.type.tensor_type.elem_type for o in graph.output} == {onnx.TensorProto.FLOAT}
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

    def test_of_a_twin_is_close_to_the_reference(self, in_bf16: tuple[Path, Stage1Net]) -> None:
        """Read back by ONNX's own reference, because ONNX Runtime has no bf16 on a CPU."""
        images = np.random.default_rng(0).integers(0, 256, (3, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
        logits, select_score = ReferenceEvaluator(str(in_bf16[0])).run(None, {"image": images})
        expected = predict(dino(), images)
        assert logits == pytest.approx(expected.logits, abs=0.02)
        assert select_score == pytest.approx(expected.select_score, abs=0.02)


class TestBuild:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_of_a_dinov3_export(
        self, precision: str, tmp_path: Path, flavour: Flavour, reference: Path, in_bf16: tuple[Path, Stage1Net]
    ) -> None:
        model = tmp_path / "model.onnx"
        source, export = (model, reference) if precision == "fp32" else (twin(model, "bf16"), in_bf16[0])
        shutil.copy(export, source)
        made = build_plan(source, flavour=flavour)
        made.write(tmp_path)
        assert made.description.precision == precision
        assert made.description.rung == precision
        assert made.description.products[precision] >= 10
        assert set(made.description.products) <= {precision, "fp32"}
        assert made.description.broken_facts == ()
        assert (made.description.shape, made.description.profile) == ((SIZE_PX, SIZE_PX), BatchProfile())
        assert read_plan(model, FP32 if precision == "fp32" else BF16) == (made.description, made.content)

    def test_without_the_kernel_that_computes_a_whole_attention(
        self, flavour: Flavour, in_bf16: tuple[Path, Stage1Net], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the library itself lists the layers: with an output inside of each attention there is no such kernel."""
        listed: list[str] = []

        def seen(listing: LayerListing) -> str:
            listed.append(listing.text)
            return listing.text

        monkeypatch.setattr(LayerListing, "taken", seen)
        for rung in ("bf16", "bf16 unfused"):
            made = build_plan(in_bf16[0], flavour=flavour, rung=rung)
            assert made.description.rung == rung
            assert made.description.products["bf16"] >= 10
        fused, unfused = (layers_of_log(listed[place]) for place in (1, 3))
        assert fused_attentions(fused) == 2
        assert fused_attentions(unfused) == 0
        assert len(unfused) > len(fused)

    def test_in_another_precision_than_the_graph_says_is_refused(
        self, flavour: Flavour, in_bf16: tuple[Path, Stage1Net], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A library that silently builds fp32."""
        monkeypatch.setattr(LayerListing, "taken", lambda _: Path(__file__).with_name("layers_fp32.txt").read_text())
        with pytest.raises(BuildFailed, match=r"asked for bf16, and the products that were built are \d+ in fp32"):
            build_plan(in_bf16[0], flavour=flavour)

    def test_of_a_graph_that_breaks_a_fact_says_so(self, tiny_engine: Path, flavour: Flavour) -> None:
        with capture_logs() as logged:
            made = build_plan(tiny_engine, flavour=flavour)
        assert made.description.broken_facts == ("opset: it is 18, and 20 to 22 are tried",)
        assert [entry["facts"] for entry in logged if entry["event"] == "graph_facts_broken"] == [
            list(made.description.broken_facts)
        ]

    def test_of_a_rectangle_and_the_file_of_a_square_is_as_it_was(
        self, tmp_path: Path, write_onnx: WriteOnnx, flavour: Flavour, tiny_engine: Path
    ) -> None:
        wide = build_plan(write_onnx(tmp_path / "wide.onnx", size_px=48, width_px=80), flavour=flavour).description
        square = build_plan(tiny_engine, flavour=flavour).description
        assert (wide.shape, square.shape) == ((48, 80), (32, 32))
        assert "width_px" not in json.loads(square.to_json())
        assert type(wide).model_validate_json(wide.to_json()) == wide

    def test_products_of_fp32_keep_their_mantissa(self, tiny_engine: Path, flavour: Flavour) -> None:
        seen: list[bool] = []

        class Watched:
            def __init__(self, logger: object) -> None:
                self.builder = flavour.trt.Builder(logger)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.builder, name)

            def build_serialized_network(self, network: object, config: Any) -> Any:
                seen.append(config.get_flag(flavour.trt.BuilderFlag.TF32))
                return self.builder.build_serialized_network(network, config)

        library = SimpleNamespace(**{**vars(flavour.trt), "Builder": Watched})
        build_plan(tiny_engine, flavour=dataclasses.replace(flavour, trt=library))
        assert seen == [False]

    def test_what_was_measured_is_kept_where_there_was_nothing(
        self, tiny_engine: Path, flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engines.backends.tensorrt.build.find_gpu", lambda: GPU)
        measured = SimpleNamespace(serialize=lambda: b"measured")
        monkeypatch.setattr("engines.backends.tensorrt.build._timing", lambda *_: measured)
        monkeypatch.setattr("engines.backends.tensorrt.build._layers", lambda *_: [])
        production = dataclasses.replace(flavour, name="tensorrt")
        made = build_plan(tiny_engine, flavour=production, timing_cache=tmp_path / "not" / "there")
        kept = tmp_path / "not" / "there" / cache_name(made.description.fingerprint)
        assert kept.read_bytes() == b"measured"

    def test_by_tensorrt_rtx_keeps_no_times(
        self, tiny_engine: Path, flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There they have no effect, and ask for a GPU."""
        monkeypatch.setattr("engines.backends.tensorrt.build.find_gpu", lambda: GPU)
        monkeypatch.setattr("engines.backends.tensorrt.build._layers", lambda *_: [])
        monkeypatch.setattr("engines.backends.tensorrt.build._timing", lambda *_: pytest.fail("it was asked for"))
        build_plan(tiny_engine, flavour=flavour, timing_cache=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_of_a_dinov3_export_that_keeps_its_weights_beside_it(
        self, tmp_path: Path, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
        path = tmp_path / "model.bf16.onnx"
        export_bf16(dino(), path, (SIZE_PX, SIZE_PX))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bf16.onnx", "model.bf16.onnx.data"]
        small = path.stat().st_size
        assert len(build_plan(path, flavour=flavour).content) > small
        before = graph_sha256(path)
        (tmp_path / "model.bf16.onnx.data").unlink()
        assert graph_sha256(path) == before
        with pytest.raises(BuildFailed, match=r"cannot parse model\.bf16\.onnx"):
            build_plan(path, flavour=flavour)

    def test_says_what_it_is(self, plan: Plan, tiny_engine: Path, flavour: Flavour) -> None:
        described = plan.description
        assert described.fingerprint.flavour == "tensorrt_rtx"
        assert described.fingerprint.version == flavour.version
        assert described.graph_sha256 == graph_sha256(tiny_engine)
        assert described.plan_size == len(plan.content)
        if isinstance(HERE, NoGpu):
            assert described.fingerprint.gpu is None

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" + bytes(50)])
    def test_of_what_is_not_onnx_says_why(self, tmp_path: Path, flavour: Flavour, content: bytes) -> None:
        (tmp_path / "junk.onnx").write_bytes(content)
        with pytest.raises((BuildFailed, BundleRefused), match=r"junk\.onnx(:| is not an ONNX graph:) .+"):
            build_plan(tmp_path / "junk.onnx", flavour=flavour)

    @pytest.mark.parametrize(
        "change",
        [
            {"outputs": ("logits", "score")},
            {"heads": ("works",)},
            {"dtype": onnx.TensorProto.FLOAT},
            {"channels": 1},
            {"size_px": "S"},
            {"width_px": "W"},
            {"batch": 4},
        ],
    )
    def test_of_another_models_graph_is_refused(
        self, tmp_path: Path, write_onnx: WriteOnnx, flavour: Flavour, change: dict[str, object]
    ) -> None:
        with pytest.raises(BuildFailed, match="expected"):
            build_plan(write_onnx(tmp_path / "other.onnx", **change), flavour=flavour)

    def test_of_a_graph_that_cannot_be_batched_says_why(
        self, tmp_path: Path, write_onnx: WriteOnnx, flavour: Flavour
    ) -> None:
        with pytest.raises(BuildFailed, match=r"cannot compile single\.onnx: .+"):
            build_plan(write_onnx(tmp_path / "single.onnx", only_batch=1), flavour=flavour)

    @without_gpu
    def test_for_refitting_needs_a_gpu_and_says_so(self, tiny_engine: Path, flavour: Flavour) -> None:
        with pytest.raises(BuildFailed, match="cannot compile"):
            build_plan(tiny_engine, flavour=flavour, refit=True)

    @without_gpu
    def test_by_tensorrt_without_a_gpu_is_not_begun(self, tiny_engine: Path, flavour: Flavour) -> None:
        with pytest.raises(BuildFailed, match="there is none"):
            build_plan(tiny_engine, flavour=dataclasses.replace(flavour, name="tensorrt", trt=None))

    @without_gpu
    def test_without_a_gpu_measures_nothing(self, tmp_path: Path, tiny_engine: Path, flavour: Flavour) -> None:
        build_plan(tiny_engine, flavour=flavour, timing_cache=tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("version", "wrong"), [("11.3.0.99", True), ("11.4.0.106", False), ("10.16.1.11", False)])
    def test_with_refit_is_refused_where_it_is_known_to_be_wrong(
        self, flavour: Flavour, version: str, wrong: bool
    ) -> None:
        tensorrt = dataclasses.replace(flavour, name="tensorrt", version=version)
        forbid_known_wrong(tensorrt, refit=False)
        if wrong:
            with pytest.raises(BuildFailed, match=r"use 11\.4"):
                forbid_known_wrong(tensorrt, refit=True)
        else:
            forbid_known_wrong(tensorrt, refit=True)

    def test_a_profile_is_in_order(self) -> None:
        with pytest.raises(ValidationError, match="least <= best <= most"):
            BatchProfile(least=1, best=64, most=32)

    def test_a_profile_is_never_of_single_images_alone(self) -> None:
        with pytest.raises(ValidationError, match="known to be computed wrong"):
            BatchProfile(least=1, best=1, most=1)

    def test_what_was_measured_is_kept_for_each_gpu_and_version(self) -> None:
        names = {
            cache_name(Fingerprint.here("tensorrt", version, gpu))
            for version in ("11.4.0.106", "10.16.1.11")
            for gpu in (GPU, GPU.model_copy(update={"name": "Another / GPU"}))
        }
        assert len(names) == 4
        assert all("/" not in name and " " not in name for name in names)

    @pytest.mark.parametrize(("takes", "kept"), [("old", b"old"), ("empty", b""), ("nothing", None)])
    def test_what_was_measured_is_used_where_the_library_takes_it(
        self, tmp_path: Path, takes: str, kept: bytes | None
    ) -> None:
        (tmp_path / "a.timing").write_bytes(b"old")
        config = SimpleNamespace(
            create_timing_cache=lambda content: content if takes != "nothing" else None,
            set_timing_cache=lambda content, ignore_mismatch: not ignore_mismatch and (takes == "old" or not content),
        )
        assert _timing(config, tmp_path / "a.timing") == kept

    @pytest.mark.slow
    def test_of_the_default_backbones_shape_in_bf16(self, tmp_path: Path, flavour: Flavour) -> None:
        (tmp_path / "backbone").mkdir()
        config = {
            "model_type": "dinov3_vit",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "num_register_tokens": 4,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "key_bias": False,
        }
        (tmp_path / "backbone" / "config.json").write_text(json.dumps(config))
        backbone = PretrainedBackbone(name=str(tmp_path / "backbone"))
        net = build(ModelSettings(backbone=backbone), shape=(224, 224), seed=0)
        assert sum(parameter.numel() for parameter in net.backbone.parameters()) > 800e6
        path = tmp_path / "model.bf16.onnx"
        export_bf16(net, path, (224, 224))
        del net
        gc.collect()
        made = build_plan(path, flavour=flavour)
        assert made.description.precision == "bf16"
        assert len(made.content) > 1.6e9


class TestGraphHash:
    def test_is_the_same_for_other_weights(self, tmp_path: Path, reference: Path) -> None:
        export_onnx(dino(seed=1), tmp_path / "1.onnx", (SIZE_PX, SIZE_PX))
        assert graph_sha256(tmp_path / "1.onnx") == graph_sha256(reference)

    def test_is_another_for_another_graph(self, tmp_path: Path, write_onnx: WriteOnnx) -> None:
        paths = [
            write_onnx(tmp_path / "a.onnx"),
            write_onnx(tmp_path / "b.onnx", heads=("head.works",)),
            write_onnx(tmp_path / "c.onnx", size_px=48),
            write_onnx(tmp_path / "d.onnx", only_batch=1),
            write_onnx(tmp_path / "e.onnx", only_batch=2),
        ]
        assert len({graph_sha256(path) for path in paths}) == len(paths)
        assert graph_sha256(write_onnx(tmp_path / "f.onnx", shift=1.0)) == graph_sha256(paths[0])

    def test_of_junk_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "junk.onnx").write_bytes(b"not a model")
        with pytest.raises(BundleRefused, match="not an ONNX graph"):
            graph_sha256(tmp_path / "junk.onnx")
