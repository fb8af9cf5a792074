"""Adapters: what is trained of a backbone, what is left of it afterwards, and one way in and out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MobileNetV2Config, ViTConfig, ViTModel

from offline.certify.onnx_export import check_export, export_onnx
from offline.data.known_rows import KnownRows
from offline.errors import TrainingError
from offline.learning.adapter_file import AdapterDescription, AdapterOrigin, Judges, load_adapter, save_adapter
from offline.learning.optimiser import parameter_groups
from offline.pipeline.run_files import ADAPTER_DESCRIPTION, ADAPTER_TENSORS
from stage1.errors import ModelError
from stage1.model.adapters.attach import add_adapters, add_side_modules, frozen_blocks, merge_adapters
from stage1.model.adapters.doran import DoranLayer
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, NamedHead, PretrainedBackbone, RandomBackbone
from stage1.model.weights import load_weights, save_weights
from tests.support.backbones import write_dinov3

SIZE_PX = 32
KINDS = ("doran", "dora", "lora", "prompts", "parallel", "none")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Nothing here trains."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv3 of three blocks with weights on disk."""
    return write_dinov3(tmp_path_factory.mktemp("dinov3"), patch_size=8, use_gated_mlp=True)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV2 of which only the config is there, so with random weights."""
    directory = tmp_path_factory.mktemp("mobilenet")
    MobileNetV2Config(depth_multiplier=0.35, image_size=SIZE_PX).save_pretrained(directory)
    return directory


def settings(directory: Path, adapter: str, **changes: Any) -> ModelSettings:
    common = {"backbone": PretrainedBackbone(name=str(directory)), "adapter": adapter, "rank": 4, "last_layers": 2}
    return ModelSettings.model_validate(common | changes)


def adapted(model: ModelSettings, seed: int = 0) -> Stage1Net:
    net = build(model, shape=(SIZE_PX, SIZE_PX), seed=seed)
    add_adapters(net, model)
    return net.eval()


def origin(model: ModelSettings, *rows: str, size_px: int = SIZE_PX, chose: Sequence[str] = ()) -> AdapterOrigin:
    """Of rows that are called after what is in them."""
    known = KnownRows((), {row: content(row) for row in (*rows, *chose)})
    return AdapterOrigin(model, (size_px, size_px), trained=known.note(rows), chose=known.note(chose))


def content(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def judges(
    data: Sequence[str] = (), *, select: Sequence[str] = (), exams: Sequence[str] = (), **renamed: str
) -> Judges:
    """Rows that are called after what is in them, and some that are not: their name without ending, and what is."""
    contents = {row: content(row) for row in (*data, *select, *exams)}
    contents |= {f"{name}.jpg": content(text) for name, text in renamed.items()}
    return Judges(KnownRows(frozenset(contents), contents), select, exams)


NOBODY = judges()


def images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = count, 3, SIZE_PX, SIZE_PX
    drawn: Tensor = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return drawn


def disturb(net: Stage1Net) -> None:
    """Give every trainable tensor another value, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def trained_modules(net: Stage1Net) -> set[str]:
    """Paths inside the backbone under which something trains, without what peft puts around them."""
    names = [name for name, p in net.backbone.named_parameters() if p.requires_grad]
    return {name.replace("base_model.model.", "").split(".lora_")[0] for name in names}


@pytest.mark.parametrize("kind", ["doran", "dora", "lora", "parallel", "none"])
def test_an_adapter_starts_as_the_backbone(pretrained: Path, kind: str) -> None:
    model = settings(pretrained, kind)
    plain = build(model, shape=(SIZE_PX, SIZE_PX), seed=0).eval()
    assert torch.allclose(adapted(model).features(images()), plain.features(images()), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_after_merging_says_what_the_adapter_said(pretrained: Path, kind: str, tmp_path: Path) -> None:
    model = settings(pretrained, kind)
    net = adapted(model)
    start = net.features(images())
    disturb(net)
    expected = net.outputs(net.features(images()))
    merge_adapters(net)
    assert torch.allclose(net.outputs(net.features(images())).logits, expected.logits, atol=1e-4)
    assert kind == "none" or not torch.allclose(net.features(images()), start, atol=1e-2)
    assert not [name for name, _ in net.named_parameters() if "lora" in name]
    save_weights(net, tmp_path / "model.safetensors")
    again = build(model, shape=(SIZE_PX, SIZE_PX), seed=9)
    add_side_modules(again, model)
    load_weights(again, tmp_path / "model.safetensors")
    assert torch.equal(again.eval().features(images()), net.features(images()))


@pytest.mark.parametrize("kind", ["prompts", "parallel"])
def test_what_stays_beside_the_weights_is_exported_with_them(pretrained: Path, kind: str, tmp_path: Path) -> None:
    net = adapted(settings(pretrained, kind, heads={"severity": NamedHead(column="severity", classes=("no", "yes"))}))
    disturb(net)
    export_onnx(net, tmp_path / "model.onnx", (SIZE_PX, SIZE_PX))
    assert check_export(net, tmp_path / "model.onnx", images(17).numpy()) < 1e-4


@pytest.mark.parametrize("kind", ["doran", "dora", "lora", "prompts", "parallel"])
def test_only_the_last_blocks_are_adapted(pretrained: Path, kind: str) -> None:
    trained = trained_modules(adapted(settings(pretrained, kind)))
    assert trained
    assert all(name.startswith(("model.layer.1.", "model.layer.2.")) for name in trained)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("query_value", {"attention.q_proj", "attention.v_proj"}),
        ("attention", {f"attention.{name}_proj" for name in "qkvo"}),
        ("mlp", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        ("all", {f"attention.{name}_proj" for name in "qkvo"} | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}),
    ],
)
def test_projections_can_be_chosen(pretrained: Path, targets: str, expected: set[str]) -> None:
    trained = trained_modules(adapted(settings(pretrained, "lora", targets=targets, last_layers=1)))
    assert trained == {f"model.layer.2.{name}" for name in expected}


@pytest.mark.parametrize(("adapter", "expected"), [("lora", 3), ("dora", 3)])
def test_a_convolutional_backbone_is_adapted_at_its_late_pointwise_convolutions(
    mobilenet: Path, adapter: str, expected: int
) -> None:
    net = adapted(settings(mobilenet, adapter, last_layers=1))
    trained = trained_modules(net)
    assert len(trained) == expected
    assert trained == {
        "layer.15.expand_1x1.convolution",
        "layer.15.reduce_1x1.convolution",
        "conv_1x1.convolution",
    }
    disturb(net)
    with torch.no_grad():
        before = net.features(images())
        merge_adapters(net)
        assert torch.allclose(net.features(images()), before, atol=1e-3)


@pytest.mark.parametrize(
    ("adapter", "match"),
    [
        ("doran", "DoRAN adapts linear layers, and MobileNetV2Model has none"),
        ("prompts", "MobileNetV2Model has no CLS token"),
        ("parallel", "set model.adapter to lora or dora"),
    ],
)
def test_what_a_convolutional_backbone_does_not_take_is_refused(mobilenet: Path, adapter: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        adapted(settings(mobilenet, adapter))


def test_a_vision_transformer_of_another_family_is_adapted_and_runs_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE_PX,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    model = settings(tmp_path, "dora", targets="query_value", last_layers=1)
    net = adapted(model)
    assert len(trained_modules(net)) == 2
    assert net.features(images()).shape == (4, 4 * 32)
    assert frozen_blocks(net) == 0


@pytest.mark.parametrize(
    ("kind", "last", "expected"),
    [("none", 2, 3), ("doran", 1, 2), ("lora", 2, 1), ("prompts", 2, 1), ("parallel", 1, 2), ("lora", None, 0)],
)
def test_blocks_below_the_adapters_are_frozen(pretrained: Path, kind: str, last: int | None, expected: int) -> None:
    assert frozen_blocks(adapted(settings(pretrained, kind, last_layers=last))) == expected


def test_a_random_backbone_has_no_frozen_blocks() -> None:
    backbone = RandomBackbone(hidden=32, layers=3, heads=2, patch_px=8)
    assert frozen_blocks(adapted(ModelSettings(backbone=backbone, adapter="lora", last_layers=1))) == 0


def test_the_late_convolution_of_a_convolutional_backbone_follows_its_blocks(mobilenet: Path) -> None:
    assert frozen_blocks(adapted(settings(mobilenet, "lora", last_layers=2))) == 14
    assert frozen_blocks(adapted(settings(mobilenet, "none"))) == 16


@pytest.mark.parametrize("kind", [*KINDS, "dora on convolutions"])
def test_vectors_are_not_decayed_and_nothing_is_there_twice(pretrained: Path, mobilenet: Path, kind: str) -> None:
    convolutional = kind not in KINDS
    net = adapted(settings(mobilenet, "dora") if convolutional else settings(pretrained, kind))
    decayed, free = parameter_groups(net, 0.1)
    everything = [*decayed["params"], *free["params"]]
    assert len({id(p) for p in everything}) == len(everything)
    assert {id(p) for p in everything} == {id(p) for p in net.parameters() if p.requires_grad}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    vectors = ("magnitude", "tau", "bias", "norm", "class_head.0", "select_head.0")
    held = [names[id(p)] for p in decayed["params"]]
    assert held
    assert not [name for name in held if any(part in name for part in vectors)]
    assert all(any(part in names[id(p)] for part in vectors) for p in free["params"])


def test_what_there_is_to_choose_in_doran_reaches_the_adapter(pretrained: Path) -> None:
    def trainable(**doran: Any) -> set[str]:
        net = adapted(settings(pretrained, "doran", doran=doran))
        # A shared trunk is told once.
        return {name for name, p in net.backbone.named_parameters() if p.requires_grad}

    paper, shapes, tau = trainable(), trainable(sharing="equal_shapes"), trainable(generated=False)
    assert [name for name in paper - shapes if name.endswith("trunk")]
    assert shapes < paper
    assert not [name for name in tau if "trunk" in name]
    assert [name for name in tau if name.endswith("raw_tau")]
    layers = adapted(settings(pretrained, "doran", doran={"detach_norm": True})).backbone.modules()
    detached = [layer._detach_norm for layer in layers if isinstance(layer, DoranLayer)]
    assert detached
    assert all(detached)


def test_an_adapter_from_before_there_was_a_choice_says_the_same_where_less_is_shared(
    pretrained: Path, tmp_path: Path
) -> None:
    """What was shared has one value under both names, so it is read into two."""
    model, ours = settings(pretrained, "doran", doran={"sharing": "equal_shapes"}), settings(pretrained, "doran")
    old, new = adapted(model), adapted(ours, seed=1)
    disturb(old)
    save_adapter(old, AdapterOrigin(model, (SIZE_PX, SIZE_PX)), tmp_path)
    judges = Judges(KnownRows(frozenset(), {}))
    with pytest.raises(TrainingError, match=r"another model: model\.doran"):
        load_adapter(new, AdapterOrigin(ours, (SIZE_PX, SIZE_PX)), tmp_path, judges)
    path = tmp_path / ADAPTER_DESCRIPTION
    told = json.loads(path.read_text())
    del told["model"]["doran"]
    path.write_text(json.dumps(told))
    load_adapter(new, AdapterOrigin(ours, (SIZE_PX, SIZE_PX)), tmp_path, judges)
    image = torch.randint(256, (2, 3, SIZE_PX, SIZE_PX), dtype=torch.uint8)
    assert all(torch.equal(one, other) for one, other in zip(old(image), new(image), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_disk_is_read_back_to_the_same_bits(pretrained: Path, kind: str, tmp_path: Path) -> None:
    model = settings(pretrained, kind)
    net = adapted(model)
    disturb(net)
    save_adapter(net, origin(model), tmp_path / "adapter")
    again = adapted(model, seed=7)
    load_adapter(again, origin(model), tmp_path / "adapter", NOBODY)
    for expected, found in zip(net(images()), again(images()), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("other", ["dora", "lora", "prompts"])
def test_an_adapter_of_another_kind_is_refused_not_reinterpreted(pretrained: Path, other: str, tmp_path: Path) -> None:
    model = settings(pretrained, "doran")
    save_adapter(adapted(model), origin(model), tmp_path)
    theirs = settings(pretrained, other)
    with pytest.raises(TrainingError, match=f"model.adapter 'doran', not '{other}'"):
        load_adapter(adapted(theirs), origin(theirs), tmp_path, NOBODY)


def test_an_adapter_that_saw_a_row_that_judges_is_refused(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", "b.jpg"), tmp_path)
    load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, judges(exams=["c.jpg"]))
    for asked in (judges(exams=["c.jpg", "b.jpg"]), judges(select=["b.jpg"])):
        with pytest.raises(TrainingError, match=r"trained on 1 rows that judge here, for example 'b\.jpg'"):
            load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, asked)


def test_a_row_that_trained_an_adapter_is_found_under_another_name(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", "b.jpg"), tmp_path)
    renamed = judges(["a.jpg"], exams=["new.jpg"], new="b.jpg")
    with pytest.raises(TrainingError, match=r"trained on 1 rows that judge here, for example 'new\.jpg'"):
        load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, renamed)


def test_files_that_changed_their_names_with_each_other_are_told_apart(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", "b.jpg"), tmp_path)
    swapped = judges(["a.jpg"], exams=["b.jpg"], b="c.jpg", c="b.jpg")
    load_adapter(adapted(model), origin(model, "a.jpg", "c.jpg"), tmp_path, swapped)


def test_what_chose_an_adapter_chooses_again_and_never_certifies(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", chose=["b.jpg"]), tmp_path)
    load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, judges(select=["b.jpg"]))
    with pytest.raises(TrainingError, match=r"chosen by 1 rows that judge here, for example 'new\.jpg'"):
        load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, judges(exams=["new.jpg"], new="b.jpg"))


def test_what_an_adapter_starts_from_is_in_its_past(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", chose=["s.jpg"]), tmp_path / "first")
    net = adapted(model)
    second = load_adapter(net, origin(model, "b.jpg", chose=["t.jpg"]), tmp_path / "first", NOBODY)
    assert second == origin(model, "a.jpg", "b.jpg", chose=["s.jpg", "t.jpg"])
    save_adapter(net, second, tmp_path / "second")
    with pytest.raises(TrainingError, match=r"trained on 1 rows that judge here, for example 'a\.jpg'"):
        load_adapter(adapted(model), origin(model, "b.jpg"), tmp_path / "second", judges(exams=["a.jpg"]))


def write_version_1(directory: Path) -> None:
    """Turn a description into one of the version before, which knew rows by their paths alone."""
    known = AdapterDescription.read(directory / ADAPTER_DESCRIPTION).model_dump(mode="json", exclude={"chose"})
    old = known | {"schema_version": 1, "rows": [row["row"] for row in known["rows"]]}
    (directory / ADAPTER_DESCRIPTION).write_text(json.dumps(old))


def test_an_adapter_of_version_1_is_read_by_the_paths_of_its_rows(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", "b.jpg"), tmp_path)
    write_version_1(tmp_path)
    load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, judges(["a.jpg", "b.jpg"], exams=["c.jpg"]))
    with pytest.raises(TrainingError, match=r"trained on 1 rows that judge here, for example 'b\.jpg'"):
        load_adapter(adapted(model), origin(model, "a.jpg"), tmp_path, judges(["a.jpg"], exams=["b.jpg"]))


def test_an_adapter_of_version_1_whose_rows_may_have_other_names_is_refused(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    save_adapter(adapted(model), origin(model, "a.jpg", "b.jpg"), tmp_path)
    write_version_1(tmp_path)
    with pytest.raises(
        TrainingError, match=r"1 rows that are not here by their names, for example 'b\.jpg'.*start with"
    ):
        load_adapter(
            adapted(model), origin(model, "a.jpg"), tmp_path, judges(["a.jpg"], exams=["new.jpg"], new="b.jpg")
        )


def test_an_adapter_of_other_weights_or_another_size_is_refused(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "doran")
    save_adapter(adapted(model), origin(model), tmp_path)
    with pytest.raises(TrainingError, match=r"an input of 32 x 32 px, not 64 x 64 px \(preprocess\.size_px"):
        load_adapter(adapted(model), origin(model, size_px=64), tmp_path, NOBODY)
    other = adapted(model)
    frozen = next(p for p in other.backbone.parameters() if not p.requires_grad)
    frozen.add_(1e-3)
    with pytest.raises(TrainingError, match="trained on other backbone weights"):
        load_adapter(other, origin(model), tmp_path, NOBODY)


def test_an_adapter_that_peft_wrote_is_refused(pretrained: Path, tmp_path: Path) -> None:
    model = settings(pretrained, "doran")
    adapted(model).backbone.save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(TrainingError, match="peft wrote this one"):
        load_adapter(adapted(model), origin(model), tmp_path, NOBODY)


@pytest.mark.parametrize("damage", ["cut short", "another hash", "tensors missing", "no tensors", "no description"])
def test_a_damaged_adapter_is_refused(pretrained: Path, damage: str, tmp_path: Path) -> None:
    model = settings(pretrained, "lora")
    net = adapted(model)
    if damage == "tensors missing":
        for parameter in net.class_head.parameters():
            parameter.requires_grad_(False)
    save_adapter(net, origin(model), tmp_path)
    path = tmp_path / ADAPTER_TENSORS
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another hash":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    elif damage == "no tensors":
        path.unlink()
    elif damage == "no description":
        (tmp_path / ADAPTER_DESCRIPTION).unlink()
    with pytest.raises(TrainingError):
        load_adapter(adapted(model), origin(model), tmp_path, NOBODY)


def test_a_gated_backbone_says_what_to_accept_and_how_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"accept the licence.*hf auth login.*model\.backbone\.name"):
        build(ModelSettings(), shape=(SIZE_PX, SIZE_PX), seed=0)


def test_a_backbone_that_is_nowhere_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Give a model of the Hugging Face hub or a local directory"):
        build(settings(tmp_path / "nowhere", "lora"), shape=(SIZE_PX, SIZE_PX), seed=0)


def test_a_size_that_a_backbone_does_not_take_is_said_at_once(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=SIZE_PX, patch_size=8)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"4 x 4 px images.*preprocess\.size_px"):
        build(settings(tmp_path, "lora"), shape=(4, 4), seed=0)
