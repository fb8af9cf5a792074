"""DoRAN: DoRA with a learned length added to its denominator and with generated low-rank factors, as a variant of LoRA.

An adapted projection of weight `W0`, `(out, in)`, computes with

    W' = m (W0 + s B A) / (||W0 + s B A|| + tau)        row by row, the bias untouched
    A  = W2a act(W1a)        B = (W2b act(W1b))^T        tau = softplus(raw_tau)

where `W1a`, the trunk of the input side, and `W1b`, that of the output side, are shared by projections of one block.
It starts as `W' = W0`: the output trunk is zero, and `m` is `||W0|| + tau`. So in the first step only the output trunk,
`m` and `tau` have a gradient; the input trunk and both heads `W2` have exactly none until that step has moved it.

Why `tau`: by row `V` of `W0 + s B A`, the derivative of `W'` is at most `m / (||V|| + tau)`, and DoRA's is `m / ||V||`.
That is a bound on the gradient through the norm, and what the paper says it is for; so the norm is not detached here,
which would leave nothing to bound. DoRA detaches it to save memory (section 4.3), as `doran_detach_norm` does.

What is the paper's and what is ours: its body could not be had when this was written. Its abstract, the caption of its
figure and its reviews give the formula of `W'` with a learned positive `tau`, factors made by networks with one hidden
layer, the sharing of `W1` between query and value of a block and between all their heads, and that query and value are
what is adapted. Ours are the activation, the hidden width, every initial value, one `tau` and one `W2` for all heads of
a projection, and the sharing between any other projections.

References:
    Diep et al. (2025), DoRAN, arXiv 2510.04331, abstracts of both versions and overview figure.
    Liu et al. (2024), DoRA, arXiv 2402.09353, equation 5 and section 4.3 (the detached norm).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from torch.nn import functional as F

from stage1.errors import ModelError

# Each has value 0 and slope 1 at 0, so that a small trunk is used as it is.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda z: 2 * F.gelu(z),
    "tanh": torch.tanh,
    "identity": lambda z: z,
}
# Query and value share, as in the paper.
SHARED = (("q_proj", "v_proj"), ("query", "value"))
# Key and output of an attention, and gate and up of an MLP, share as well; for key and output, which read different
# inputs, only their equal shape speaks for it.
SHARED_BY_SHAPE = (*SHARED, ("k_proj", "o_proj"), ("gate_proj", "up_proj"))
# Settings of peft that write into factors which here are generated, or that this layer does not compute.
UNSUPPORTED = ("lora_bias", "fan_in_fan_out", "target_parameters", "layer_replication", "ensure_weight_tying")


@dataclass
class DoranConfig(LoraConfig):
    """Settings of DoRAN for `peft.get_peft_model`; every adapter needs an object of its own.

    Projections share inside one parent module, if their shapes are equal; one in no group has trunks of its own. Query
    and value share, as the paper has it. Sharing by shape alone learned more slowly in what we measured: AUGRC 0.115
    against 0.091 on small scenes after 222 steps, and 0.080 without generated factors, with `tau` alone.

    Read one back with `DoranConfig.from_pretrained`: `PeftModel.from_pretrained` without a config builds a plain LoRA.

    Attributes:
        use_doran: tells peft which variant this is; always true.
        doran_hidden: rows of a trunk, at least the rank; None for twice the rank.
        doran_activation: a name in `ACTIVATIONS`.
        doran_tau_init: `tau` at the start, in mean row norms of `W0`; positive.
        doran_tau_per_row: one `tau` an output row instead of one a projection.
        doran_hypernet: generate the factors; false for the plain `A` and `B` of LoRA.
        doran_detach_norm: no gradient through the norm, as DoRA does it; `m` and `tau` still have theirs.
        doran_share: last parts of the names of projections that share trunks, in groups; None for `SHARED`.

    Raises:
        ModelError: a value is out of its range, or a setting of peft cannot be used together with DoRAN. Also from
            `get_peft_model`: this object has been used before, or a projection is quantised or zero.
    """

    use_doran: bool = field(default=True, metadata={"is_lora_variant": True})
    doran_hidden: int | None = None
    doran_activation: str = "gelu"
    doran_tau_init: float = 0.1
    doran_tau_per_row: bool = False
    doran_hypernet: bool = True
    doran_detach_norm: bool = False
    doran_share: list[list[str]] | None = None

    def __post_init__(self) -> None:
        self._check_peft()
        self._check_ranges()
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.doran_share is None:
            self.doran_share = [list(group) for group in SHARED]
        # No field, so it is not written with the settings.
        self.trunks = _Trunks(self.doran_share)
        self._register_custom_module({nn.Linear: DoranLinear})

    @classmethod
    def from_peft_type(cls, **kwargs: Any) -> DoranConfig:  # noqa: ANN401  the fields
        """This class itself; peft's own method would return a `LoraConfig`, of which DoRAN is a variant."""
        kwargs.pop("peft_type", None)
        made: DoranConfig = super().from_peft_type(**kwargs)  # type: ignore[no-untyped-call]
        return made

    def _check_peft(self) -> None:
        if not isinstance(self.init_lora_weights, bool):
            raise ModelError(
                f"init_lora_weights is {self.init_lora_weights!r}, which writes into factors that DoRAN generates: set "
                "it to True, or to False for an adapter that does not start as the identity"
            )
        variants = [f.name for f in fields(self) if f.metadata.get("is_lora_variant") and f.name != "use_doran"]
        found = [name for name in (*variants, *UNSUPPORTED) if getattr(self, name)]
        if found or not self.use_doran:
            what = f"{', '.join(found)} cannot be used together with DoRAN" if found else "use_doran is false"
            raise ModelError(f"{what}: leave it at its default, or use a LoraConfig instead of a DoranConfig")

    def _check_ranges(self) -> None:
        rank, known = max([self.r, *(self.rank_pattern or {}).values()]), ", ".join(ACTIVATIONS)
        if self.doran_hidden is not None and self.doran_hidden < rank:
            raise ModelError(f"doran_hidden is {self.doran_hidden}: set at least the rank, {rank}, or leave it out")
        if not 0 < self.doran_tau_init < math.inf:
            raise ModelError(f"doran_tau_init is {self.doran_tau_init}: set a positive share of the mean row norm")
        if self.doran_activation not in ACTIVATIONS:
            raise ModelError(f"doran_activation is {self.doran_activation!r}: choose one of {known}")


def _precise(dtype: torch.dtype) -> torch.dtype:
    """At least fp32."""
    return torch.promote_types(dtype, torch.float32)


class _Trunks:
    """The trunks of one model, each made by the first projection of a group that asks for it."""

    def __init__(self, groups: list[list[str]]) -> None:
        names = [name for group in groups for name in group]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ModelError(f"doran_share names {', '.join(repeated)} more than once: a projection is in one group")
        self._group_of = {name: index for index, group in enumerate(groups) for name in group}
        self._made: dict[tuple[object, ...], tuple[nn.Parameter, nn.Parameter]] = {}
        self._asked: set[str] = set()

    def take(self, target: str, weight: Tensor, hidden: int, *, zero: bool) -> tuple[nn.Parameter, nn.Parameter]:
        """Trunks of the input and the output side; the latter is zero or, like the former, random."""
        if target in self._asked:
            raise ModelError(f"this DoranConfig has adapted {target} before: make one for every adapter")
        self._asked.add(target)
        parent, _, name = target.rpartition(".")
        key = (parent, self._group_of.get(name, name), *weight.shape, hidden)
        if key not in self._made:
            out, into = (weight.new_zeros(hidden, width, dtype=_precise(weight.dtype)) for width in weight.shape)
            for trunk in (into,) if zero else (into, out):
                nn.init.kaiming_uniform_(trunk, a=math.sqrt(5))
            self._made[key] = nn.Parameter(into), nn.Parameter(out)
        return self._made[key]


class HyperFactor(nn.Module):
    """A low-rank factor that is generated: a head of its own times an activated trunk that others may share.

    It is where peft has a linear layer, of which only the weight is used. The trunk is a parameter of this very module:
    deeper names are saved with the adapter's name in them, and then load under that name only.

    Args:
        trunk: `(h, width)`, shared by identity.
        rank: r, at most h.
        side: `input` for `A`, `(r, width)`; `output` for `B`, `(width, r)`.
        activation: a name in `ACTIVATIONS`.
    """

    def __init__(self, trunk: nn.Parameter, rank: int, side: Literal["input", "output"], activation: str) -> None:
        super().__init__()
        self.trunk = trunk
        head = torch.empty(rank, trunk.shape[0], device=trunk.device, dtype=trunk.dtype)
        self.head = nn.Parameter(nn.init.orthogonal_(head))
        self._side = side
        self._activation = activation

    @property
    def weight(self) -> Tensor:
        """The factor, in the precision of its parameters also under autocast."""
        with torch.autocast(self.trunk.device.type, enabled=False):
            rows = self.head @ ACTIVATIONS[self._activation](self.trunk)
        return rows if self._side == "input" else rows.T


class DoranLayer(nn.Module):
    """Length of the rows of one adapted projection: the learned `m` and `tau`, and what they make of an input.

    Args:
        base_weight: `W0`, `(out, in)`, not all zero.
        tau_init: `tau` at the start, in mean row norms of `W0`.
        tau_per_row: one `tau` a row.
        detach_norm: no gradient through the norm.

    Attributes:
        weight: `m`, `(out,)`; the name is peft's.
        raw_tau: before the softplus, `(1,)` or `(out,)`.
        initial: `m` at the start; made anew from `W0` and therefore not saved.
    """

    initial: Tensor

    def __init__(self, base_weight: Tensor, *, tau_init: float, tau_per_row: bool, detach_norm: bool) -> None:
        super().__init__()
        rows = _row_norms(base_weight.detach())
        tau = tau_init * rows.mean()
        # A tensor on the meta device has a shape and no value.
        if not (tau.is_meta or 0 < tau < math.inf):
            raise ModelError("a projection whose weight is zero or not finite cannot be adapted: leave it out")
        raw = tau + torch.log(-torch.expm1(-tau))
        self.raw_tau = nn.Parameter(raw.repeat(len(rows) if tau_per_row else 1))
        self.weight = nn.Parameter(rows + tau)
        self.register_buffer("initial", self.weight.detach().clone(), persistent=False)
        self._detach_norm = detach_norm
        self._known: tuple[object, Tensor] | None = None

    @property
    def tau(self) -> Tensor:
        """What is added to the norm, positive, `(1,)` or `(out,)`."""
        return F.softplus(self.raw_tau)

    def get_weight_norm(self, weight: Tensor, lora_weight: Tensor, scaling: float, **_: object) -> Tensor:
        """The denominator `||W0 + s B A|| + tau`, `(out,)`, from `W0` and the product `B A`; peft merges with it."""
        return _row_norms(weight + scaling * lora_weight) + self.tau

    def _row_scale(self, weight: Tensor, factor_a: Tensor, factor_b: Tensor, scaling: float) -> Tensor:
        """The quotient `m / (||W0 + s B A|| + tau)`, `(out,)`, without a product of the size of `W0`.

        `||W0 + s B A||^2 = ||W0||^2 + 2 s <W0 A^T, B> + s^2 <B A A^T, B>`, row by row, in at least fp32.
        """
        if self._detach_norm:
            factor_a, factor_b = factor_a.detach(), factor_b.detach()
        with torch.autocast(weight.device.type, enabled=False):
            precise = _precise(weight.dtype)
            w, a, b = weight.to(precise), factor_a.to(precise), factor_b.to(precise)
            crossed, own = ((w @ a.T) * b).sum(1), ((b @ (a @ a.T)) * b).sum(1)
            squared = self._squared(weight) + 2 * scaling * crossed + scaling**2 * own
            # Rounding may leave less than nothing, and a root of nothing has no finite gradient.
            norm = squared.clamp_min(torch.finfo(precise).tiny).sqrt()
            return self.weight.to(precise) / (norm + self.tau.to(precise))

    def _squared(self, weight: Tensor) -> Tensor:
        """`||W0||^2` row by row, `(out,)`, computed when `W0` is another tensor, or has been written to."""
        # A tensor counts the writes to it; all of it is read for the norm, in every pass.
        state = (weight.data_ptr(), weight._version, weight.dtype, weight.device)  # noqa: SLF001
        if weight.requires_grad or self._known is None or self._known[0] != state:
            self._known = state, _row_norms(weight).square()
        return self._known[1]

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: nn.Linear | HyperFactor,  # noqa: N803  peft's name
        lora_B: nn.Linear | HyperFactor,  # noqa: N803  peft's name
        scaling: float,
        base_layer: nn.Linear,
        base_result: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """What is to be added to the output of the base layer, `(..., out)`.

        Args:
            x: `(..., in)`, after dropout.
            lora_A: has `A` as its weight.
            lora_B: has `B` as its weight.
            scaling: s.
            base_layer: has `W0` as its weight.
            base_result: its output for `x`; None if dropout has made `x` another than it has seen.
        """
        # Once each: a generated factor is computed whenever it is asked for.
        factor_a, factor_b = lora_A.weight, lora_B.weight
        scale = self._row_scale(base_layer.weight, factor_a, factor_b, scaling)
        if base_result is None:
            projected = F.linear(x, base_layer.weight.to(x.dtype))
        else:
            projected = base_result if base_layer.bias is None else base_result - base_layer.bias
        low_rank = F.linear(F.linear(x, factor_a.to(x.dtype)), factor_b.to(x.dtype))
        return (scale - 1) * projected + scale * scaling * low_rank


def _row_norms(weight: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=_precise(weight.dtype))
    return norms


class DoranVariant(DoraLinearVariant):
    """How peft's LoRA layer becomes DoRAN; forward, merging and unmerging are DoRA's with this denominator."""

    @staticmethod
    def init(  # type: ignore[override]  # peft passes more than its base class says
        module: LoraLinear, adapter_name: str, *, config: DoranConfig, target_name: str, **_: object
    ) -> None:
        """Put factors and magnitude of an adapter into a layer; draws from torch's global generator, as peft does."""
        base, rank = module.get_base_layer(), module.r[adapter_name]
        if not isinstance(base, nn.Linear) or not base.weight.is_floating_point():
            raise ModelError(f"{target_name} is no floating-point linear layer, which DoRAN needs: leave it out")
        if config.doran_hypernet:
            hidden, identity = config.doran_hidden or 2 * rank, bool(config.init_lora_weights)
            into, out = config.trunks.take(target_name, base.weight, hidden, zero=identity)
            module.lora_A[adapter_name] = HyperFactor(into, rank, "input", config.doran_activation)
            module.lora_B[adapter_name] = HyperFactor(out, rank, "output", config.doran_activation)
        module.lora_magnitude_vector[adapter_name] = DoranLayer(
            base.weight,
            tau_init=config.doran_tau_init,
            tau_per_row=config.doran_tau_per_row,
            detach_norm=config.doran_detach_norm,
        )


class DoranLinear(LoraLinear):
    """peft's LoRA of a linear layer, which knows DoRAN besides the variants it came with."""

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        """Variants by the settings that ask for them."""
        return {**super().lora_variants, ("use_doran",): DoranVariant}


@dataclass(frozen=True)
class Magnitude:
    """Where the lengths of one projection's rows are.

    Attributes:
        tau_mean: mean of `tau` over the rows.
        tau_min: the smallest.
        tau_max: the largest.
        drift: how far `m` is from its initial value, `||m - m0|| / ||m0||`.
    """

    tau_mean: float
    tau_min: float
    tau_max: float
    drift: float


@torch.no_grad()
def magnitudes(model: nn.Module, adapter: str = "default") -> dict[str, Magnitude]:
    """Magnitude of every projection that is adapted by DoRAN, by the name of its module; empty if none is.

    Args:
        model: anything with such projections in it, not merged away; not changed.
        adapter: name of the adapter.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, DoranLinear) and adapter in module.lora_magnitude_vector:
            layer = module.lora_magnitude_vector[adapter]
            assert isinstance(layer, DoranLayer)
            tau, drift = layer.tau, (layer.weight - layer.initial).norm() / layer.initial.norm()
            found[name] = Magnitude(float(tau.mean()), float(tau.min()), float(tau.max()), float(drift))
    return found
