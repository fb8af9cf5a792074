"""Pooling: what of the patches the heads see, on every kind of backbone, and the same in the graph."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import (
    ConvNextConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    MobileNetV2Config,
    PretrainedConfig,
    SwinConfig,
    ViTConfig,
)

from offline.certify.onnx_export import export_onnx
from offline.config import RunConfig, load_config
from offline.data.known_rows import KnownRows
from offline.errors import TrainingError
from offline.learning.adapter_file import AdapterOrigin, Judges, load_adapter, save_adapter
from stage1.errors import ArtifactError, ModelError, SettingsError
from stage1.model import trunk
from stage1.model.adapters.attach import add_adapters, frozen_blocks
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.pooling import AttentionPool, FixedPool
from stage1.model.settings import ModelSettings, PretrainedBackbone

SHAPE = (56, 112)
TOKENS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 112}
BACKBONES: dict[str, PretrainedConfig] = {
    "dinov3": DINOv3ViTConfig(**TOKENS, intermediate_size=64, patch_size=14, num_register_tokens=2),
    "dinov2": Dinov2Config(**TOKENS, mlp_ratio=2, patch_size=14),
    "dinov2 with registers": Dinov2WithRegistersConfig(**TOKENS, mlp_ratio=2, patch_size=14, num_register_tokens=3),
    "vit": ViTConfig(**TOKENS, intermediate_size=64, patch_size=14),
    "swin": SwinConfig(embed_dim=8, depths=[3, 1], num_heads=[1, 2], window_size=7, patch_size=4, image_size=112),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4),
    "mobilenet": MobileNetV2Config(depth_multiplier=0.35, image_size=112),
}
WITH_A_NORM = ("dinov3", "dinov2", "dinov2 with registers", "vit")
PATCHES = {"swin": (7, 14), "convnext": (7, 14), "mobilenet": (2, 4)}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Nothing here trains."""
    with torch.no_grad():
        yield


def settings(home: Path, kind: str, **changes: Any) -> ModelSettings:
    """A model on a backbone with random weights."""
    directory = home / kind
    BACKBONES[kind].save_pretrained(directory)
    backbone = PretrainedBackbone(name=str(directory))
    return ModelSettings(backbone=backbone, adapter="none", head_hidden=8, **changes)


def net_of(
    home: Path, kind: str, shape: tuple[int, int] = SHAPE, tiles: tuple[int, int] | None = None, **changes: Any
) -> Stage1Net:
    found = build(settings(home, kind, **changes), shape=shape, tiles=tiles, seed=0).eval()
    sharpen(found)
    return found


def sharpen(net: Stage1Net) -> None:
    """Queries that look somewhere, as trained ones do."""
    if isinstance(net.pool, AttentionPool):
        net.pool.queries.mul_(3)


def images(count: int = 3, shape: tuple[int, int] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    drawn: Tensor = torch.randint(0, 256, (count, 3, *shape), generator=generator, dtype=torch.uint8)
    return drawn


def last_state(net: Stage1Net, image: Tensor) -> Tensor:
    """The last hidden state, as transformers gives it, as tokens."""
    asked = {"interpolate_pos_encoding": True} if type(net.backbone).__name__ in {"ViTModel", "SwinModel"} else {}
    hidden: Tensor = net.backbone((image.float() - net.mean) / net.std, **asked).last_hidden_state
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


def attended(queries: Tensor, patches: Tensor) -> Tensor:
    """What attention pools of the patches `(P, C)` of one image, query by query."""
    means = []
    for query in queries:
        keys = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        fit = (keys * query).sum(1)
        weights = fit.exp() / fit.exp().sum()
        means.append((weights[:, None] * patches).sum(0))
    return torch.cat(means)


@pytest.mark.parametrize("kind", BACKBONES)
def test_attention_is_a_mean_of_the_patches_alone_weighted_by_how_well_they_fit_each_query(
    kind: str, tmp_path: Path
) -> None:
    net = net_of(tmp_path, kind)
    state = last_state(net, images())
    first = {"dinov3": 3, "dinov2": 1, "dinov2 with registers": 4, "vit": 1}.get(kind, 0)
    assert isinstance(net.pool, AttentionPool)
    expected = torch.stack([attended(net.pool.queries, each[first:]) for each in state])
    found = net.features(images())
    assert found.shape == (3, net.width) == (3, 4 * net.layout.width)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", BACKBONES)
def test_its_weights_say_where_it_looked(kind: str, tmp_path: Path) -> None:
    net = net_of(tmp_path, kind, queries=2)
    weights = net.attention(images())
    assert weights.shape == (3, 2, 1, *PATCHES.get(kind, (4, 8)))
    assert torch.allclose(weights.sum((2, 3, 4)), torch.ones(3, 2), atol=1e-5)
    state = last_state(net, images())[:, net.layout.first_patch :]
    pooled = net.features(images()).unflatten(1, (2, -1))
    assert torch.allclose(torch.einsum("nqp,npc->nqc", weights.flatten(2), state), pooled, atol=1e-4)


def test_fresh_queries_tell_patches_apart() -> None:
    """Scores of unit spread over patches of any scale: half of the weight is on less than a third of them."""
    torch.manual_seed(0)
    for scale in (0.1, 30.0):
        weights = AttentionPool(384, 1, 8).weights(scale * torch.randn(2, 1, 257, 384))
        half = (weights.sort(-1, descending=True).values.cumsum(-1) < 0.5).sum(-1) / 256
        assert 0.1 < float(half.min()) <= float(half.max()) < 0.3


def test_a_query_near_zero_takes_the_mean() -> None:
    torch.manual_seed(0)
    pool, tokens = AttentionPool(16, 1, 2), torch.randn(3, 1, 11, 16)
    pool.queries.zero_()
    assert torch.allclose(pool(tokens), tokens[:, 0, 1:].mean(1).repeat(1, 2), atol=1e-6)


def test_a_patch_that_a_query_knows_is_found_among_a_thousand() -> None:
    torch.manual_seed(0)
    pool, tokens = AttentionPool(64, 0, 1), torch.randn(1, 1, 1000, 64)
    cone = torch.randn(64)
    tokens[0, 0, 617] = cone
    pool.queries.copy_(4 * cone[None])
    assert int(pool.weights(tokens).argmax()) == 617
    assert torch.allclose(pool(tokens)[0], cone, atol=1e-2)
    assert not torch.allclose(tokens[0, 0].mean(0), cone, atol=0.5)


@pytest.mark.parametrize(("kind", "expected"), [("mean", 1), ("largest", 1), ("cls_mean", 2)])
def test_fixed_pools(kind: Any, expected: int) -> None:
    tokens = torch.randn(3, 1, 9, 8)
    pool, patches = FixedPool(kind, 8, 2, 1), tokens[:, 0, 2:]
    parts = {"mean": [patches.mean(1)], "largest": [patches.max(1).values]}
    parts["cls_mean"] = [tokens[:, 0, 0], *parts["mean"]]
    assert pool.width == expected * 8
    assert torch.equal(pool(tokens), torch.cat(parts[kind], 1))


def test_of_several_views_a_fixed_pool_takes_the_whole_and_the_largest_of_the_tiles() -> None:
    tokens = torch.randn(2, 5, 9, 8)
    found = FixedPool("mean", 8, 1, 5)(tokens)
    means = tokens[:, :, 1:].mean(2)
    assert torch.equal(found, torch.cat([means[:, 0], means[:, 1:].max(1).values], 1))


def test_attention_looks_at_the_patches_of_all_views_together(tmp_path: Path) -> None:
    net = net_of(tmp_path, "dinov2", shape=(56, 84), tiles=(2, 3))
    assert net.view_shape == (28, 28)
    shown = images(2, (56, 84))
    pixels = (shown.float() - net.mean) / net.std
    views = [torch.nn.functional.avg_pool2d(pixels, (2, 3))]
    views += [pixels[..., y : y + 28, x : x + 28] for y in (0, 28) for x in (0, 28, 56)]
    states = torch.stack([net.backbone(view).last_hidden_state[:, 1:] for view in views], 1)
    assert isinstance(net.pool, AttentionPool)
    expected = torch.stack([attended(net.pool.queries, each.flatten(0, 1)) for each in states])
    assert torch.allclose(net.features(shown), expected, atol=1e-4)
    assert net.attention(shown).shape == (2, 4, 7, 2, 2)


def test_a_picture_that_cannot_be_cut_into_tiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="56 x 112 px cannot be cut into 3 x 2 equal tiles"):
        net_of(tmp_path, "dinov2", tiles=(3, 2))


def by_hand(net: Stage1Net, blocks: int, image: Tensor) -> Tensor:
    """The normed state after some blocks, with the last of them at the end of the backbone."""
    shorter = trunk.blocks_of(net.backbone)[:blocks]
    whole = trunk.blocks_of(net.backbone)[:]
    trunk.shorten(net.backbone, blocks)
    try:
        return last_state(net, image)
    finally:
        trunk.blocks_of(net.backbone).extend(whole[len(shorter) :])


@pytest.mark.parametrize("kind", WITH_A_NORM)
def test_an_earlier_block_is_pooled_as_if_it_were_the_last_one(kind: str, tmp_path: Path) -> None:
    whole = net_of(tmp_path, kind, pooling="mean")
    expected = by_hand(whole, 2, images())[:, whole.layout.first_patch :].mean(1)
    found = net_of(tmp_path, kind, pooling="mean", pooled_blocks=(-2,))
    assert len(trunk.blocks_of(found.backbone)) == 2
    assert torch.allclose(found.features(images()), expected, atol=1e-5)


@pytest.mark.parametrize("kind", WITH_A_NORM)
def test_several_blocks_lie_side_by_side(kind: str, tmp_path: Path) -> None:
    whole = net_of(tmp_path, kind, pooling="mean")
    states = [by_hand(whole, blocks, images())[:, whole.layout.first_patch :].mean(1) for blocks in (1, 3)]
    found = net_of(tmp_path, kind, pooling="mean", pooled_blocks=(-1, -3))
    assert torch.allclose(found.features(images()), torch.cat(states, 1), atol=1e-5)
    wide = net_of(tmp_path, kind, queries=2, pooled_blocks=(-1, -3))
    assert wide.features(images()).shape == (3, 2 * 2 * 32)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("kind", ["dinov3", "dinov2"])
def test_several_blocks_behind_the_frozen_ones(kind: str, adapter: Any, tmp_path: Path) -> None:
    model = settings(tmp_path, kind, pooled_blocks=(-1, -2)).model_copy(update={"adapter": adapter, "last_layers": 1})
    net = build(model, shape=SHAPE, seed=0)
    add_adapters(net, model)
    sharpen(net.eval())
    cut = frozen_blocks(net)
    assert cut == (3 if adapter == "none" else 2)
    for number in range(1, cut + 1):
        assert torch.allclose(net.rest(net.prefix(images(), number), number), net.features(images()), atol=1e-4)


def test_what_is_cut_off_lies_after_every_pooled_block(tmp_path: Path) -> None:
    model = settings(tmp_path, "dinov2", pooled_blocks=(-1, -3)).model_copy(
        update={"adapter": "lora", "last_layers": 1}
    )
    net = build(model, shape=SHAPE, seed=0)
    add_adapters(net, model)
    assert frozen_blocks(net) == 1


@pytest.mark.parametrize("kind", ["swin", "convnext", "mobilenet"])
def test_a_backbone_whose_blocks_differ_is_pooled_at_its_end_alone(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"set model\.pooled_blocks to \[-1\]"):
        net_of(tmp_path, kind, pooled_blocks=(-2,))


def test_a_block_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Dinov2Model has 3 blocks: model\.pooled_blocks has no block -4"):
        net_of(tmp_path, "dinov2", pooled_blocks=(-4, -1))


@pytest.mark.parametrize("blocks", [(0,), (-1, 1), (-1, -1), ()])
def test_blocks_are_counted_from_the_end_each_once(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="pooled_blocks"):
        ModelSettings(pooled_blocks=blocks)


@pytest.mark.parametrize(
    ("kind", "tiles", "changes"),
    [
        ("dinov3", (1, 2), {"pooled_blocks": (-1, -2)}),
        ("dinov2", None, {"pooled_blocks": (-2,), "queries": 8}),
        ("convnext", (1, 2), {}),
    ],
    ids=str,
)
def test_the_graph_says_what_the_network_says(
    kind: str, tiles: tuple[int, int] | None, changes: dict[str, Any], tmp_path: Path
) -> None:
    net = net_of(tmp_path, kind, tiles=tiles, **changes)
    export_onnx(net, tmp_path / "model.onnx", SHAPE)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        expected, found = net(images(count)), session.run(None, {"image": images(count).numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            assert np.allclose(ours.numpy(), theirs, atol=1e-4)


def test_a_wide_picture_is_not_the_same_squashed(tmp_path: Path) -> None:
    wide, square = net_of(tmp_path, "dinov2"), net_of(tmp_path, "dinov2", shape=(112, 112))
    assert wide.attention(images()).shape[3:] == (4, 8)
    assert square.attention(images(3, (112, 112))).shape[3:] == (8, 8)


def test_weights_from_before_attention_fit_the_pool_that_was_then(tmp_path: Path) -> None:
    net = net_of(tmp_path, "dinov2", pooling="cls_mean")
    assert not [name for name in net.state_dict() if name.startswith("pool")]
    state = last_state(net, images())
    assert torch.allclose(net.features(images()), torch.cat([state[:, 0], state[:, 1:].mean(1)], 1), atol=1e-5)


def test_settings_from_before_attention_had_cls_and_mean() -> None:
    old = ModelSettings().model_dump(mode="json") | {"views": "whole"}
    for name in ("pooling", "queries", "pooled_blocks"):
        del old[name]
    assert ModelSettings.model_validate(old).pooling == "cls_mean"
    assert ModelSettings().pooling == "attention"
    assert ModelSettings().queries == 4


def test_the_config_of_an_older_bundle_is_read_with_the_pool_that_it_has(tmp_path: Path) -> None:
    written = RunConfig(model=ModelSettings(pooling="cls_mean", rank=3))
    content = json.loads(written.to_json())
    for name in ("pooling", "queries", "pooled_blocks"):
        del content["model"][name]
    content["model"]["views"] = "whole"
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert RunConfig.read(tmp_path / "config.json") == written
    content["model"]["views"] = "whole_and_quadrants"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"model: .*there is no model\.views"):
        RunConfig.read(tmp_path / "config.json")
    with pytest.raises(SettingsError, match=r"model: .*there is no model\.views"):
        load_config("tiny", None, {"model.views": "whole_and_quadrants"})


def test_queries_are_kept_with_an_adapter(tmp_path: Path) -> None:
    model = settings(tmp_path, "dinov2").model_copy(update={"adapter": "lora", "rank": 2})
    origin, nobody = AdapterOrigin(model, SHAPE), Judges(KnownRows(frozenset(), {}))
    trained, fresh = (build(model, shape=SHAPE, seed=0) for _ in range(2))
    for net in (trained, fresh):
        add_adapters(net, model)
    sharpen(trained)
    save_adapter(trained, origin, tmp_path / "adapter")
    load_adapter(fresh, origin, tmp_path / "adapter", nobody)
    assert torch.equal(fresh.eval().features(images()), trained.eval().features(images()))
    older = model.model_copy(update={"pooling": "cls_mean"})
    other = build(older, shape=SHAPE, seed=0)
    add_adapters(other, older)
    with pytest.raises(TrainingError, match=r"model\.pooling 'attention', not 'cls_mean'"):
        load_adapter(other, AdapterOrigin(older, SHAPE), tmp_path / "adapter", nobody)


@pytest.mark.parametrize("content", [{"views": "whole_and_quadrants"}, {"views": "whole", "pooling": "attention"}])
def test_views_say_what_takes_their_place(content: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r'preprocess\.geometry = "tiles"'):
        ModelSettings.model_validate(content)


def test_only_attention_looks_somewhere(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pooling by mean does not look anywhere"):
        net_of(tmp_path, "dinov2", pooling="mean").attention(images())


def test_queries_are_drawn_from_the_seed(tmp_path: Path) -> None:
    model = settings(tmp_path, "dinov2")
    one, same, other = (build(model, shape=SHAPE, seed=seed).state_dict()["pool.queries"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_was_written_before_doran_had_settings_shares_by_shape_as_it_did_then() -> None:
    """Or an adapter of then is told to belong to another model, whatever the config says."""
    old = {name: value for name, value in ModelSettings().model_dump(mode="json").items() if name != "doran"}
    del old["pooling"]
    found = ModelSettings.model_validate(old | {"views": "whole"})
    assert found.doran.sharing == "equal_shapes"
    assert ModelSettings.model_validate(old | {"adapter": "doran"}).doran.sharing == "query_value"
    named = old | {"views": "whole", "doran": {"sharing": "query_value"}}
    assert ModelSettings.model_validate(named).doran.sharing == "query_value"
    # Of another adapter it says nothing, and would only set the two apart.
    assert ModelSettings.model_validate(old | {"views": "whole", "adapter": "lora"}).doran.sharing == "query_value"
