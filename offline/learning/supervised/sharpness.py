"""The climb of Friendly-SAM: a gradient is taken where the loss is higher, so that training settles where it is flat.

The climb follows the part of the gradient that is the batch's own, the gradient less its running mean, and its length
is relative: `rho` times the way that the adapter has come since training began. Both passes see the same batch and draw
the same random numbers, or the difference between them would be noise.

Why relative: a length in raw coordinates means another thing for every adapter, rank and number of blocks, and an
adapter begins as zero. Where the climb is longer than the adapter, the second gradient is that of noise, and the loss
stays at that of chance. Relative to the way, the first step is that of the optimiser alone, and the climb grows with
what there is to disturb.

Why on merged weights: what a climb of the factors A and B does to the weight they are merged into lies in
`B B^T G + G A^T A`, a small subspace that holds next to nothing while B is near zero, and flatness there says little
about flatness of the weights that serve. Flat-LoRA therefore disturbs the merged weight, by noise, and Bi-LoRA by a
second adapter that climbs. Here the gradient of the merged weight is at hand, and the climb follows it.

References:
    Li, Zhou, He, Cheng, Huang (2024), Friendly sharpness-aware minimization, arXiv 2403.12350, algorithm 1.
    Li et al. (2025), Flat-LoRA, arXiv 2409.14396, section 3. Liu et al. (2026), Bi-LoRA, arXiv 2508.19564, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from offline.errors import TrainingError
from offline.learning.settings import FSamSettings
from stage1.model.net import Stage1Net

# Keeps the direction of a gradient that is zero from being a division by zero.
SMALLEST = 1e-12
# What peft calls an adapter that nobody has named.
ADAPTER = "default"


class Climb:
    """Up along the batch's own part of the gradient, and back to the bit.

    Args:
        weights: what is moved, trained or frozen; on one device.
        length: of the climb, called when it begins; a scalar tensor or a number.
        sigma: share of the running mean that is taken out of the gradient.
        momentum: share of the running mean that a step keeps; the paper's lambda.
    """

    def __init__(
        self, weights: Sequence[Tensor], length: Callable[[], Tensor | float], *, sigma: float, momentum: float
    ) -> None:
        self.weights = list(weights)
        self._length = length
        self._sigma, self._momentum = sigma, momentum
        self._means: list[Tensor] = []
        self._before: list[Tensor] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it frozen weights that are moved have gradients."""
        frozen = [weight for weight in self.weights if not weight.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(False)

    @property
    def gradients(self) -> list[Tensor]:
        """Of the weights that have one."""
        return [weight.grad for weight in self.weights if weight.grad is not None]

    @torch.no_grad()
    def up(self) -> None:
        """Move the weights along their gradients, which are dropped."""
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]
        own = gradients
        if self._means:
            own = [gradient - self._sigma * mean for gradient, mean in zip(gradients, self._means, strict=True)]
            for mean, gradient in zip(self._means, gradients, strict=True):
                mean.lerp_(gradient, 1 - self._momentum)
        else:
            self._means = [gradient.clone() for gradient in gradients]
        step = self._length() / (_norm(own) + SMALLEST)
        self._before = [weight.detach().clone() for weight in self.weights]
        for weight, direction in zip(self.weights, own, strict=True):
            weight.add_(direction * step)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients of what is moved."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def down(self) -> None:
        """Put the weights back to where the climb began; nothing without one."""
        for weight, before in zip(self.weights, self._before, strict=bool(self._before)):
            weight.copy_(before)
        self._before = []

    def state_dict(self) -> dict[str, Any]:
        """The running means, in the order of the weights; none before the first climb."""
        return {"means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved means."""
        self._means = [m.to(w) for m, w in zip(state["means"], self.weights, strict=bool(state["means"]))]


class Way:
    """How far weights have come since a training began: the norm of the difference.

    Args:
        weights: as they are at the beginning.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)
        self._start = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """The norm, a scalar."""
        return _norm([w.detach() - start for w, start in zip(self._weights, self._start, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """Where they began."""
        return {"start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Measure from there."""
        self._start = [start.to(w) for start, w in zip(state["start"], self._weights, strict=True)]


class FriendlySam:
    """The climb of the settings for a network; its state goes with the training's.

    With `form` at `adapter`, what trains of the backbone climbs, by `rho` times the norm of the difference from where
    training began. With `merged`, the frozen weights below low-rank adapters climb, by `rho` times the Frobenius norm
    of `s B A` over all of them, which is how far they have moved once they are merged. Heads never climb, and have no
    part in the length: they start as something, are larger than an adapter, and would take the climb to themselves.
    Only where nothing but heads trains do they climb, by `rho` times the way that they have come.

    Attributes:
        climb: the climb.

    Args:
        net: with adapters.
        settings: form, length and mean.

    Raises:
        TrainingError: merged weights are to climb, and there is no low-rank adapter.
    """

    def __init__(self, net: Stage1Net, settings: FSamSettings) -> None:
        self._way: Way | None = None
        if settings.form == "merged":
            layers = [module for module in net.backbone.modules() if isinstance(module, LoraLayer)]
            if not layers:
                raise TrainingError(
                    "train_supervised.fsam.form is merged, which moves the weights below a low-rank adapter, and this "
                    "model has none: set it to adapter, or model.adapter to lora, dora or doran"
                )
            weights: list[Tensor] = [layer.get_base_layer().get_parameter("weight") for layer in layers]
            way: Callable[[], Tensor] = lambda: _merged_norm(layers)  # noqa: E731
        else:
            trained: list[Tensor] = [p for p in net.backbone.parameters() if p.requires_grad]
            weights = trained or [p for p in net.parameters() if p.requires_grad]
            way = self._way = Way(weights)
        self.climb = Climb(weights, lambda: settings.rho * way(), sigma=settings.sigma, momentum=settings.momentum)

    def state_dict(self) -> dict[str, Any]:
        """Running means, and where the way began."""
        return {"climb": self.climb.state_dict(), "way": None if self._way is None else self._way.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.climb.load_state_dict(state["climb"])
        if self._way is not None:
            self._way.load_state_dict(state["way"])


@torch.no_grad()
def _merged_norm(layers: Sequence[nn.Module]) -> Tensor:
    """Frobenius norm of `s B A` over all layers, a scalar, without a product of the size of the weights.

    `||B A||^2 = <B^T B, A A^T>`.
    """
    squares = []
    for layer in layers:
        a, b = (getattr(layer, name)[ADAPTER].weight.detach().float() for name in ("lora_A", "lora_B"))
        a, b = a.flatten(1), b.flatten(1)
        squares.append(layer.scaling[ADAPTER] ** 2 * ((b.T @ b) * (a @ a.T)).sum())  # type: ignore[index]
    return torch.stack(squares).sum().clamp_min(0).sqrt()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))
    return norm
