"""DoRAN: the formula of its docstring, inside peft, from the first step to the merged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from offline.learning.optimiser import parameter_groups
from stage1.errors import ModelError
from stage1.model.adapters import doran
from stage1.model.adapters.doran import (
    ACTIVATIONS,
    SHARED_BY_SHAPE,
    DoranConfig,
    DoranLayer,
    DoranLinear,
    magnitudes,
)

QUERY_VALUE = ["q_proj", "v_proj"]
ALL = [*QUERY_VALUE, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HIDDEN, LAYERS = 32, 3


def backbone(seed: int = 0, **changed: Any) -> nn.Module:
    shape = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 32,
        "use_gated_mlp": True,
        "layerscale_value": 1.0,
        "initializer_range": 0.2,
        "pos_embed_rescale": None,
    }
    torch.manual_seed(seed)
    made: nn.Module = DINOv3ViTModel(DINOv3ViTConfig(**(shape | changed)))
    return made.eval()


def config(**settings: Any) -> DoranConfig:
    common: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": QUERY_VALUE}
    return DoranConfig(**(common | settings))


def with_adapter(model: nn.Module, settings: LoraConfig) -> Any:
    """peft's wrapper, whose attributes are those of whatever it wraps."""
    return get_peft_model(model, settings)


def adapted(seed: int = 0, **settings: Any) -> Any:
    return with_adapter(backbone(seed), config(**settings)).eval()


def images(count: int = 2, seed: int = 0) -> Tensor:
    drawn: Tensor = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return drawn


def said(model: nn.Module) -> Tensor:
    with torch.no_grad():
        state: Tensor = model(images()).last_hidden_state
    return state


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


def trainable(model: nn.Module) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def disturb(model: nn.Module, size: float = 0.1) -> None:
    """Give every trainable tensor another value, as training would."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable(model).values():
        parameter.data += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    state = model(images()).last_hidden_state
    (state * images(3, seed=3).flatten()[: state.numel()].view_as(state)).sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trainable(model).items()}


def step(model: nn.Module, optimiser: Any) -> float:
    optimiser.zero_grad()
    loss = F.mse_loss(model(images()).last_hidden_state[:, 0], images(2, seed=3)[:, 0, 0, :HIDDEN])
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def projections(model: nn.Module) -> dict[str, Any]:
    return {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if isinstance(m, DoranLinear)}


def trunks(model: nn.Module, name: str, adapter: str = "default") -> tuple[nn.Parameter, nn.Parameter]:
    module = projections(model)[name]
    return module.lora_A[adapter].trunk, module.lora_B[adapter].trunk


def share(model: nn.Module, first: str, second: str, adapter: str = "default") -> bool:
    pairs = zip(trunks(model, first, adapter), trunks(model, second, adapter), strict=True)
    same = [a is b for a, b in pairs]
    assert len(set(same)) == 1
    return same[0]


class Projections(nn.Module):
    """A query and a value projection of unequal sides, with a bias on one of them."""

    def __init__(self, into: int = 6, out: int = 5) -> None:
        super().__init__()
        self.q_proj = nn.Linear(into, out)
        self.v_proj = nn.Linear(into, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.q_proj(x) * self.v_proj(x)
        return product


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ALL},
        {"doran_hypernet": False},
        {"doran_tau_per_row": True, "doran_tau_init": 3.0},
        {"doran_detach_norm": True, "doran_hidden": 5},
        *({"doran_activation": name} for name in ACTIVATIONS),
    ],
    ids=str,
)
def test_it_starts_as_the_model_it_adapts(settings: dict[str, Any]) -> None:
    assert apart(said(adapted(**settings)), said(backbone())) < 1e-5


def test_an_adapter_that_is_to_start_at_random_does() -> None:
    assert apart(said(adapted(init_lora_weights=False)), said(backbone())) > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_without_tau_and_generated_factors_it_is_the_dora_of_peft(dropout: float) -> None:
    common: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "lora_dropout": dropout}
    base = backbone().double()
    theirs = with_adapter(copy.deepcopy(base), LoraConfig(**common, use_dora=True)).train()
    disturb(theirs)
    ours = with_adapter(
        copy.deepcopy(base), DoranConfig(**common, doran_hypernet=False, doran_detach_norm=True)
    ).train()
    state = ours.state_dict()
    assert set(theirs.state_dict()) < set(state)
    taus = {name: torch.full_like(t, -100.0) for name, t in state.items() if name.endswith("raw_tau")}
    ours.load_state_dict(theirs.state_dict() | taus)

    torch.manual_seed(5)
    expected, expected_gradients = said(theirs), gradients(theirs)
    torch.manual_seed(5)
    found, found_gradients = said(ours), gradients(ours)

    # In float64, so that only the order of the sums differs.
    assert apart(found, expected) < 1e-12
    assert apart(expected, said(base)) > 1e-2
    assert len(expected_gradients) == 3 * 7 * LAYERS
    for name, gradient in expected_gradients.items():
        assert gradient.any(), name
        assert apart(found_gradients[name], gradient) < 1e-11 * max(1.0, float(gradient.abs().max())), name


def formula(x: Tensor, module: Any, leaves: dict[str, Tensor], *, detach: bool) -> Tensor:
    """The output by the formula, with a dense product, in float64."""
    base = module.get_base_layer()
    a = leaves["A.head"] @ (2 * F.gelu(leaves["A.trunk"]))
    b = (leaves["B.head"] @ (2 * F.gelu(leaves["B.trunk"]))).T
    dense = base.weight.double() + module.scaling["default"] * b @ a
    norm = dense.square().sum(1, keepdim=True).sqrt()
    tau = torch.log(1 + leaves["raw_tau"].exp()).view(-1, 1)
    weight = leaves["m"].view(-1, 1) * dense / ((norm.detach() if detach else norm) + tau)
    made: Tensor = x @ weight.T + (0 if base.bias is None else base.bias.double())
    return made


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("per_row", [False, True])
def test_outputs_and_gradients_are_those_of_the_formula(
    detach: bool, dtype: Any, tolerance: float, per_row: bool
) -> None:
    torch.manual_seed(2)
    settings = config(doran_detach_norm=detach, doran_tau_per_row=per_row)
    model = with_adapter(Projections().to(dtype), settings)
    disturb(model, 0.5)
    x, towards = torch.randn(7, 6).to(dtype), torch.randn(7, 5).to(dtype)
    for module in projections(model).values():
        layer = module.lora_magnitude_vector["default"]
        own = {
            "A.head": module.lora_A["default"].head,
            "A.trunk": module.lora_A["default"].trunk,
            "B.head": module.lora_B["default"].head,
            "B.trunk": module.lora_B["default"].trunk,
            "m": layer.weight,
            "raw_tau": layer.raw_tau,
        }
        leaves = {name: p.detach().double().requires_grad_() for name, p in own.items()}
        expected = formula(x.double(), module, leaves, detach=detach)
        found = module(x)
        scale = float(expected.detach().abs().max())
        assert apart(found.double(), expected) < tolerance * scale
        # With respect to one projection at a time: the trunks are shared.
        found_gradients = torch.autograd.grad((found * towards).sum(), list(own.values()))
        (expected * towards.double()).sum().backward()
        for (name, leaf), gradient in zip(leaves.items(), found_gradients, strict=True):
            assert leaf.grad is not None, name
            assert float(leaf.grad.abs().max()) > 1e-3, name
            assert apart(gradient.double(), leaf.grad) < 10 * tolerance * float(leaf.grad.abs().max()), name


def steepness(model: Any, length: float) -> tuple[float, float]:
    """Spectral norm of the derivative of the first row of `W'` by that of `V`, if `V` is so long; and `m` of that row.

    The input side is the identity and the scale 1, so that the output side is the change of the weight itself.
    """
    module = model.base_model.model.q_proj
    base = module.get_base_layer().weight
    with torch.no_grad():
        module.lora_A["default"].weight.copy_(torch.eye(base.shape[1]))
        module.lora_B["default"].weight.zero_()
        module.lora_B["default"].weight[0] = (length / base[0].norm() - 1) * base[0]
    weight = module.lora_B["default"].weight
    row = module(torch.eye(base.shape[1], dtype=torch.float64))[:, 0] - module.get_base_layer().bias[0]
    rows = [torch.autograd.grad(value, weight, retain_graph=True)[0][0] for value in row]
    m = float(module.lora_magnitude_vector["default"].weight[0].detach())
    return float(torch.linalg.matrix_norm(torch.stack(rows), 2)), m


def one_row_model(**settings: Any) -> Any:
    torch.manual_seed(3)
    plain: dict[str, Any] = {"r": 6, "lora_alpha": 6, "target_modules": ["q_proj"]}
    made = DoranConfig(**plain, doran_hypernet=False) if not settings else LoraConfig(**plain, **settings)
    return with_adapter(Projections().double(), made)


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("length", [1.0, 1e-1, 1e-3, 1e-6])
def test_a_row_that_vanishes_does_not_blow_the_gradient_up(length: float, tau: float) -> None:
    model = one_row_model()
    layer = model.base_model.model.q_proj.lora_magnitude_vector["default"]
    with torch.no_grad():
        layer.raw_tau.copy_(torch.log(torch.expm1(torch.tensor(tau, dtype=torch.float64))))
    found, m = steepness(model, length)
    # Perpendicular to the row nothing is lost, so the bound is reached; tolerance 1e-6, relative.
    assert found == pytest.approx(m / (length + tau), rel=1e-6)
    assert found < m / tau


def test_where_dora_does_blow_up_and_where_a_row_is_nothing_at_all() -> None:
    found, m = steepness(one_row_model(use_dora=True), 1e-6)
    assert found == pytest.approx(m / 1e-6, rel=1e-6)
    at_zero, m = steepness(one_row_model(), 0.0)
    tau = float(one_row_model().base_model.model.q_proj.lora_magnitude_vector["default"].tau.detach())
    assert at_zero == pytest.approx(m / tau, rel=1e-6)


def test_rows_that_rounding_makes_shorter_than_nothing_stay_finite() -> None:
    torch.manual_seed(3)
    model = Projections(64, 64)
    nn.init.zeros_(model.q_proj.weight[7])
    made = with_adapter(model, config(r=64, lora_alpha=64, target_modules=["q_proj"], doran_hypernet=False))
    x, module = torch.randn(5, 64), made.base_model.model.q_proj
    base = module.get_base_layer()
    assert apart(module(x), base(x)) < 1e-5
    module.lora_A["default"].weight.data = torch.eye(64)
    module.lora_B["default"].weight.data = -base.weight.detach()
    # In float32 some of the sums that should be zero are negative.
    out = module(x)
    out.sum().backward()
    assert apart(out, base.bias) < 1e-5
    assert all(p.grad.isfinite().all() for p in trainable(made).values())
    layer = module.lora_magnitude_vector["default"]
    steepest = float((layer.weight / layer.tau).detach().max())
    assert float(module.lora_B["default"].weight.grad.abs().max()) < 1.01 * steepest * float(x.sum(0).abs().max())


def test_the_norm_is_not_taken_in_half_precision() -> None:
    model, base = adapted(target_modules=ALL), backbone()
    # Eight bits of a mantissa would move every row by up to 4e-3 of its length.
    for name, module in projections(model).items():
        x = torch.randn(4, module.in_features)
        with torch.autocast("cpu", torch.bfloat16):
            layer = module.lora_magnitude_vector["default"]
            kept = {"lora_A": module.lora_A["default"], "lora_B": module.lora_B["default"]}
            added = layer(x, **kept, scaling=2.0, base_layer=module.get_base_layer())
        assert float(added.detach().abs().max()) < 1e-5, name
    assert apart(said(model), said(base)) < 1e-5


def test_the_norm_of_a_frozen_weight_is_taken_once_and_anew_when_it_is_written_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, taken, norms = adapted(), list[int](), doran._row_norms

    def told(weight: Tensor) -> Tensor:
        taken.append(1)
        return norms(weight)

    monkeypatch.setattr(doran, "_row_norms", told)
    first = said(model)
    count = len(taken)
    assert count == len(projections(model))
    assert torch.equal(said(model), first)
    assert len(taken) == count
    layer = next(iter(projections(model).values()))
    with torch.no_grad():
        layer.get_base_layer().weight.mul_(2)
    doubled = said(model)
    assert len(taken) == count + 1
    assert torch.equal(said(copy.deepcopy(model)), doubled)


def attention(index: int, name: str) -> str:
    return f"model.layer.{index}.attention.{name}"


def check_sharing(model: nn.Module, adapter: str = "default") -> None:
    assert share(model, attention(1, "q_proj"), attention(1, "v_proj"), adapter)
    assert not share(model, attention(1, "q_proj"), attention(2, "q_proj"), adapter)


def test_query_and_value_share_their_trunks_in_a_block_and_not_across_blocks(tmp_path: Path) -> None:
    model = adapted()
    disturb(model)
    check_sharing(model)
    check_sharing(copy.deepcopy(model))
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(backbone(), str(tmp_path), config=DoranConfig.from_pretrained(str(tmp_path)))
    check_sharing(again)


def test_a_copy_shares_within_itself_and_not_with_its_original() -> None:
    model = adapted()
    copied = copy.deepcopy(model)
    before = said(copied)
    disturb(model)
    assert apart(said(copied), before) == 0.0
    assert trunks(model, attention(0, "q_proj"))[0] is not trunks(copied, attention(0, "q_proj"))[0]


def test_an_average_of_weights_keeps_the_sharing() -> None:
    model = adapted()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    disturb(model)
    average.update_parameters(model)
    averaged: Any = average.module
    check_sharing(averaged)
    other = trunks(averaged, attention(1, "q_proj"))[1]
    assert apart(other, 0.5 * trunks(model, attention(1, "q_proj"))[1]) < 1e-6
    merged = copy.deepcopy(averaged).merge_and_unload(safe_merge=True)
    assert apart(said(merged), said(averaged)) < 1e-5


def test_of_all_projections_query_and_value_alone_share_unless_more_are_named() -> None:
    model = adapted(target_modules=ALL)
    assert share(model, attention(0, "q_proj"), attention(0, "v_proj"))
    assert not share(model, attention(0, "k_proj"), attention(0, "o_proj"))
    assert not share(model, "model.layer.0.mlp.gate_proj", "model.layer.0.mlp.up_proj")
    model = adapted(target_modules=ALL, doran_share=[list(group) for group in SHARED_BY_SHAPE])
    assert share(model, attention(0, "k_proj"), attention(0, "o_proj"))
    assert share(model, "model.layer.0.mlp.gate_proj", "model.layer.0.mlp.up_proj")
    assert not share(model, attention(0, "q_proj"), attention(0, "k_proj"))
    alone = trunks(model, "model.layer.0.mlp.down_proj")
    assert not any(alone[0] is trunks(model, name)[0] for name in projections(model) if "down" not in name)


def test_groups_can_be_chosen_and_heads_are_never_shared() -> None:
    model = adapted(target_modules=ALL, doran_share=[["q_proj", "k_proj", "v_proj", "down_proj"]])
    assert share(model, attention(0, "q_proj"), attention(0, "k_proj"))
    assert not share(model, "model.layer.0.mlp.gate_proj", "model.layer.0.mlp.up_proj")
    heads = [getattr(m, side)["default"].head for m in projections(model).values() for side in ("lora_A", "lora_B")]
    assert len({id(head) for head in heads}) == len(heads)


def test_projections_of_unequal_shape_do_not_share() -> None:
    model = Projections()
    model.v_proj = nn.Linear(6, 8)
    made = with_adapter(model, config())
    assert not share(made, "q_proj", "v_proj")


def test_shared_trunks_are_trained_once_and_vectors_are_not_decayed() -> None:
    model = adapted()
    decayed, spared = parameter_groups(model, 0.1)
    ids = [id(p) for p in (*decayed["params"], *spared["params"])]
    assert len(set(ids)) == len(ids) == len(trainable(model))
    assert all(name.endswith((".weight", "raw_tau")) for name, p in trainable(model).items() if p.ndim == 1)
    assert len(spared["params"]) == 2 * 2 * LAYERS


def test_only_the_last_layers_are_adapted() -> None:
    model = adapted(layers_to_transform=[1, 2], layers_pattern="layer")
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert {name.split(".layer.")[1].split(".")[0] for name in names} == {"1", "2"}
    assert set(trainable(model)) == set(names)


def test_at_the_first_step_only_the_output_trunk_and_the_magnitude_have_a_gradient() -> None:
    moved = {name for name, gradient in gradients(adapted(target_modules=ALL).train()).items() if gradient.any()}
    expected = {
        n for n in trainable(adapted(target_modules=ALL)) if n.endswith(("lora_B.default.trunk", "weight", "tau"))
    }
    assert moved == expected


@pytest.mark.parametrize("checkpointing", [False, True])
def test_after_a_few_steps_everything_that_trains_has_a_gradient(checkpointing: bool) -> None:
    model = adapted(target_modules=ALL, lora_dropout=0.1 if checkpointing else 0.0).train()
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    optimiser = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    losses = [step(model, optimiser) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert not [name for name, gradient in gradients(model).items() if not gradient.abs().max() > 0]


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = adapted(target_modules=ALL).train()
    disturb(model)
    kept = gradients(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert model.base_model.model.is_activation_checkpointing
    recomputed = gradients(model)
    assert max(apart(recomputed[name], gradient) for name, gradient in kept.items()) == 0.0


def test_dropout_is_for_training_only() -> None:
    plain, dropping = adapted(), adapted(lora_dropout=0.5)
    disturb(plain)
    disturb(dropping)
    assert apart(said(plain), said(dropping)) == 0.0
    assert apart(said(plain), said(dropping.train())) > 1e-3


def test_dropout_is_seen_by_the_change_of_the_weight_and_not_by_the_weight() -> None:
    torch.manual_seed(4)
    model = with_adapter(Projections(), config(target_modules=["q_proj"], lora_dropout=0.5)).train()
    disturb(model, 0.5)
    module = projections(model)["q_proj"]
    x, base = torch.randn(9, 6), module.get_base_layer()
    torch.manual_seed(6)
    found = module(x)
    torch.manual_seed(6)
    dropped = F.dropout(x, 0.5)
    merged = copy.deepcopy(model).eval().merge_and_unload().q_proj.weight
    assert apart(found, base(x) + dropped @ (merged - base.weight).T) < 1e-5


@pytest.mark.parametrize(
    "settings", [{}, {"target_modules": ALL, "doran_tau_per_row": True}, {"doran_hypernet": False}], ids=str
)
def test_merged_it_says_what_it_said(settings: dict[str, Any]) -> None:
    model, base = adapted(**settings), said(backbone())
    disturb(model, 0.05)
    before = said(model)
    assert apart(before, base) > 1e-2
    model.merge_adapter()
    assert apart(said(model), before) < 1e-5
    model.unmerge_adapter()
    assert apart(said(model), before) < 1e-5
    with model.disable_adapter():
        assert apart(said(model), base) < 1e-5
    merged = model.merge_and_unload(safe_merge=True)
    assert apart(said(merged), before) < 1e-5
    assert {n: p.shape for n, p in merged.named_parameters()} == {n: p.shape for n, p in backbone().named_parameters()}
    assert not [module for module in merged.modules() if "lora" in type(module).__module__]
    assert not [name for name in merged.state_dict() if "lora" in name]


@pytest.mark.parametrize("name", ["default", "another"])
@pytest.mark.parametrize("settings", [{}, {"doran_hypernet": False}, {"target_modules": ALL}], ids=str)
def test_it_is_read_back_as_it_was_under_any_name(settings: dict[str, Any], name: str, tmp_path: Path) -> None:
    model = adapted(**settings, doran_activation="tanh", doran_tau_init=0.2)
    disturb(model)
    model.save_pretrained(str(tmp_path))
    read = DoranConfig.from_pretrained(str(tmp_path))
    assert read.doran_activation == "tanh"
    again = PeftModel.from_pretrained(backbone(), str(tmp_path), adapter_name=name, config=read).eval()
    assert apart(said(again), said(model)) == 0.0
    assert magnitudes(again, name) == magnitudes(model)


def test_adapters_of_one_model_are_independent() -> None:
    model = adapted()
    model.add_adapter("second", config(doran_tau_init=0.5))
    disturb(model)
    first = said(model)
    model.set_adapter("second")
    assert apart(said(model), said(backbone())) < 1e-5
    assert apart(first, said(model)) > 1e-3
    assert not any("default" in name for name in trainable(model))
    names = attention(0, "q_proj")
    assert trunks(model, names)[0] is not trunks(model, names, "second")[0]


def test_query_and_value_of_six_blocks_of_the_huge_model_train_519_180_numbers() -> None:
    wide = backbone(hidden_size=1280, intermediate_size=8, num_hidden_layers=2, num_attention_heads=20)
    last = config(r=16, lora_alpha=32, layers_to_transform=[1], layers_pattern="layer")
    model = with_adapter(wide, last)
    trunk_rows, head_rows, magnitude = 32 * (1280 + 1280), 2 * 2 * 16 * 32, 2 * (1280 + 1)
    assert sum(p.numel() for p in trainable(model).values()) == trunk_rows + head_rows + magnitude
    assert 6 * (trunk_rows + head_rows + magnitude) == 519_180


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "orthogonal"}, "init_lora_weights is 'orthogonal'"),
        ({"init_lora_weights": None}, "init_lora_weights is None"),
        ({"use_dora": True}, "use_dora cannot be used together"),
        ({"use_dora": True, "lora_bias": True}, "use_dora, lora_bias cannot be used together"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens cannot be used"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out cannot be used"),
        ({"use_doran": False}, "use_doran is false"),
        ({"doran_hidden": 3}, "at least the rank, 4"),
        ({"doran_hidden": 6, "rank_pattern": {"q_proj": 8}}, "at least the rank, 8"),
        ({"doran_tau_init": 0.0}, "doran_tau_init is 0.0"),
        ({"doran_tau_init": float("nan")}, "doran_tau_init is nan"),
        ({"doran_tau_init": float("inf")}, "doran_tau_init is inf"),
        ({"doran_activation": "relu"}, "choose one of gelu, tanh, identity"),
        ({"doran_share": [["q_proj"], ["v_proj", "q_proj"]]}, "names q_proj more than once"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        config(**settings)


def test_one_config_does_not_tie_two_models_together() -> None:
    once = config()
    with_adapter(backbone(), once)
    with pytest.raises(ModelError, match="make one for every adapter"):
        with_adapter(backbone(), once)


def test_one_config_does_not_tie_two_adapters_together() -> None:
    model = adapted()
    with pytest.raises(ModelError, match="make one for every adapter"):
        model.add_adapter("second", model.peft_config["default"])


def zero(model: Projections) -> None:
    nn.init.zeros_(model.q_proj.weight)


def infinite(model: Projections) -> None:
    nn.init.constant_(model.q_proj.weight, float("inf"))


@pytest.mark.parametrize("spoil", [zero, infinite])
def test_a_weight_without_a_length_is_refused(spoil: Callable[[Projections], None]) -> None:
    model = Projections()
    spoil(model)
    with pytest.raises(ModelError, match="zero or not finite"):
        with_adapter(model, config(init_lora_weights=True))


def test_magnitudes_are_told_by_projection() -> None:
    model = adapted(doran_tau_per_row=True, layers_to_transform=[2], layers_pattern="layer")
    start = magnitudes(model)
    assert sorted(name.rsplit(".", 1)[1] for name in start) == QUERY_VALUE
    for name, told in start.items():
        rows = model.get_submodule(name).get_base_layer().weight.norm(dim=1)
        assert (told.tau_mean, told.tau_min, told.tau_max) == pytest.approx([0.1 * float(rows.mean())] * 3, rel=1e-5)
        assert told.drift == 0.0
    layer = next(m for m in model.modules() if isinstance(m, DoranLayer))
    with torch.no_grad():
        layer.weight.mul_(1.25)
        layer.raw_tau[0] = 30.0
    changed, unchanged = start
    now = magnitudes(model)
    assert now[changed].drift == pytest.approx(0.25, rel=1e-5)
    assert now[changed].tau_max == pytest.approx(30.0, rel=1e-6)
    assert now[changed].tau_min == start[changed].tau_min
    assert now[unchanged] == start[unchanged]
    assert magnitudes(with_adapter(backbone(), LoraConfig(target_modules=QUERY_VALUE))) == {}


def test_no_projection_is_in_two_groups_by_default() -> None:
    names = [name for group in SHARED_BY_SHAPE for name in group]
    assert len(set(names)) == len(names)
