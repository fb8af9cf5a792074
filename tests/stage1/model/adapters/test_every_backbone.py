"""Every adapter on every kind of backbone: trained where it should, exported with parity, on one device, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offline.certify.onnx_export import check_export, export_onnx
from stage1.errors import ModelError
from stage1.model.adapters.attach import add_adapters, add_side_modules, frozen_blocks, merge_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone
from stage1.model.trunk import blocks_of
from stage1.model.weights import load_weights, save_weights
from tests.support.backbones import write_backbone, write_dinov3

SIZE_PX = 32
BACKBONES = ("dinov3", "dinov2", "dinov2_with_registers", "vit", "swin", "convnext")
ADAPTERS = ("doran", "dora", "lora", "prompts", "parallel", "none")
REFUSED = {
    ("swin", "prompts"): "SwinModel has no CLS token",
    ("convnext", "prompts"): "ConvNextModel has no CLS token",
    ("convnext", "parallel"): "the blocks of ConvNextModel have no MLP",
}
# What low-rank adapters leave is the plain backbone, so one of them a family shows the graph of all.
EXPORTED = {
    *(
        (kind, adapter)
        for kind, adapter in zip(BACKBONES, ("doran", "dora", "lora", "doran", "dora", "lora"), strict=True)
    ),
    *((kind, adapter) for kind in BACKBONES for adapter in ("prompts", "parallel")),
}
TAKEN = [(kind, adapter) for kind in BACKBONES for adapter in ADAPTERS if (kind, adapter) not in REFUSED]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Nothing here trains, but where a test says so."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One backbone of each kind on disk."""
    made = {"dinov3": write_dinov3(tmp_path_factory.mktemp("dinov3"), patch_size=8)}
    for kind in BACKBONES[1:]:
        made[kind] = write_backbone(tmp_path_factory.mktemp(kind), kind, size_px=SIZE_PX)
    return made


def settings(directory: Path, adapter: str, **changes: Any) -> ModelSettings:
    common = {"backbone": PretrainedBackbone(name=str(directory)), "adapter": adapter, "rank": 4, "last_layers": 2}
    return ModelSettings.model_validate(common | changes)


def adapted(model: ModelSettings, device: str = "cpu") -> Stage1Net:
    net = build(model, shape=(SIZE_PX, SIZE_PX), seed=0).to(device)
    add_adapters(net, model)
    return net.eval()


def images(count: int = 4) -> Tensor:
    shape = count, 3, SIZE_PX, SIZE_PX
    drawn: Tensor = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    return drawn


def disturb(net: Stage1Net) -> None:
    """Give every trainable tensor another value, as training would."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("kind", "adapter"), TAKEN)
def test_only_the_last_blocks_train_and_all_of_them_get_a_gradient(
    directories: dict[str, Path], kind: str, adapter: str
) -> None:
    model = settings(directories[kind], adapter)
    net = adapted(model)
    blocks = blocks_of(net.backbone)
    assert len(blocks) == 3
    training = {p for p in net.backbone.parameters() if p.requires_grad}
    inside = [{*block.parameters()} & training for block in blocks]
    assert training == set().union(*inside)
    assert [bool(each) for each in inside] == [False, *[adapter != "none"] * 2]
    disturb(net)
    with torch.enable_grad():
        net(images())[0].square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in training)
    assert any(bool(p.grad.any()) for p in training if p.grad is not None) == bool(training)


@pytest.mark.parametrize(("kind", "adapter"), TAKEN)
def test_what_is_left_after_training_says_the_same_and_comes_back_from_disk(
    directories: dict[str, Path], kind: str, adapter: str, tmp_path: Path
) -> None:
    # A pool of attention would train as well, whatever the adapter.
    model = settings(directories[kind], adapter, pooling="mean")
    net = adapted(model)
    start = net.features(images())
    disturb(net)
    expected = net.features(images())
    assert torch.allclose(expected, start, atol=1e-3) == (adapter == "none")
    merge_adapters(net)
    assert torch.allclose(net.features(images()), expected, atol=1e-4)
    save_weights(net, tmp_path / "model.safetensors")
    again = build(model, shape=(SIZE_PX, SIZE_PX), seed=9)
    add_side_modules(again, model)
    load_weights(again, tmp_path / "model.safetensors")
    assert torch.equal(again.eval().features(images()), net.features(images()))
    plain = list(build(model, shape=(SIZE_PX, SIZE_PX), seed=9).state_dict())
    assert (list(net.state_dict()) == plain) == (adapter not in {"prompts", "parallel"})


@pytest.mark.parametrize(("kind", "adapter"), [pair for pair in TAKEN if pair in EXPORTED])
def test_the_engine_says_what_the_adapted_network_says(
    directories: dict[str, Path], kind: str, adapter: str, tmp_path: Path
) -> None:
    net = adapted(settings(directories[kind], adapter))
    disturb(net)
    merge_adapters(net)
    export_onnx(net, tmp_path / "model.onnx", (SIZE_PX, SIZE_PX))
    assert check_export(net, tmp_path / "model.onnx", images(17).numpy()) < 1e-4


@pytest.mark.parametrize("adapter", ["doran", "dora", "lora", "parallel"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_a_fresh_adapter_changes_nothing(directories: dict[str, Path], kind: str, adapter: str) -> None:
    if (kind, adapter) in REFUSED:
        pytest.skip("refused")
    model = settings(directories[kind], adapter)
    plain = build(model, shape=(SIZE_PX, SIZE_PX), seed=0).eval()
    assert torch.allclose(adapted(model).features(images()), plain.features(images()), atol=1e-5)


@pytest.mark.parametrize(("kind", "adapter"), TAKEN)
def test_every_tensor_of_an_adapter_is_where_the_network_is(
    directories: dict[str, Path], kind: str, adapter: str
) -> None:
    """On the meta device, which stands for any that is not the CPU."""
    net = adapted(settings(directories[kind], adapter), "meta")
    tensors = [*net.named_parameters(), *net.named_buffers()]
    assert [name for name, tensor in tensors if tensor.device.type != "meta"] == []
    # DoRAN computes without autocast, which torch does not know on the meta device.
    if adapter != "doran":
        assert net.features(images().to("meta")).shape == (4, net.width)


@pytest.mark.parametrize(("kind", "adapter"), REFUSED)
def test_what_makes_no_sense_is_refused_with_what_to_do(directories: dict[str, Path], kind: str, adapter: str) -> None:
    for change in (add_adapters, add_side_modules):
        net = build(settings(directories[kind], adapter), shape=(SIZE_PX, SIZE_PX), seed=0)
        with pytest.raises(ModelError, match=rf"{REFUSED[kind, adapter]}.*set model\.adapter to"):
            change(net, settings(directories[kind], adapter))


@pytest.mark.parametrize("targets", ["query_value", "attention"])
def test_projections_that_a_backbone_does_not_have_are_refused(directories: dict[str, Path], targets: str) -> None:
    with pytest.raises(ModelError, match=rf"ConvNextModel has no {targets} projections: set model\.targets to all"):
        adapted(settings(directories["convnext"], "lora", targets=targets))


@pytest.mark.parametrize("adapter", ["prompts", "parallel"])
def test_the_same_seed_gives_the_same_adapter_on_any_device(directories: dict[str, Path], adapter: str) -> None:
    """What an adapter starts from is drawn by the CPU, so that a night on another device starts alike."""
    drawn = []
    for device in ("cpu", "meta"):
        adapted(settings(directories["dinov2"], adapter), device)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_blocks_through_all_stages_are_counted_from_the_end(directories: dict[str, Path], adapter: str) -> None:
    if ("swin", adapter) in REFUSED:
        pytest.skip("refused")
    net = adapted(settings(directories["swin"], adapter, last_layers=None))
    first = {p for p in blocks_of(net.backbone)[0].parameters() if p.requires_grad}
    assert bool(first) == (adapter != "none")
    assert frozen_blocks(net) == 0
