"""Optimisers: AdamW, Lion and Friendly-SAM, their schedule, and an average of the weights.

Friendly-SAM looks for flat minima: it climbs first, by a step of length rho along the part of the gradient that is the
batch's own (the gradient less its running mean), and updates with the gradient that it finds up there. Both passes see
the same batch and draw the same random numbers, or the difference between them would be noise.

References:
    Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv 1711.05101 (AdamW).
    Chen et al. (2023), Symbolic discovery of optimization algorithms, arXiv 2302.06675 (Lion).
    Li, Zhou, He, Cheng, Huang (2024), Friendly sharpness-aware minimization, arXiv 2403.12350, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_optimizer import FriendlySAM, Lion
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offline.learning.settings import TrainSettings


class FSam(FriendlySAM):
    """Friendly-SAM whose climb can be taken back without an update."""

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back to where the climb began."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if "old_p" in self.state[parameter]:
                    parameter.copy_(self.state[parameter].pop("old_p"))


def build_optimiser(groups: list[dict[str, Any]], settings: TrainSettings) -> Optimizer:
    """The optimiser of the settings.

    Args:
        groups: parameter groups, each with its weight decay.
        settings: kind and rates.
    """
    bases: dict[str, type[Optimizer]] = {"adamw": AdamW, "lion": Lion}
    if settings.optimiser != "fsam":
        return bases[settings.optimiser](groups, lr=settings.learning_rate)  # type: ignore[call-arg]
    sam = settings.fsam
    made: Optimizer = FSam(
        groups, bases[sam.base], rho=sam.rho, sigma=sam.sigma, lmbda=sam.momentum, lr=settings.learning_rate
    )
    return made


def base_of(optimiser: Optimizer) -> Optimizer:
    """The optimiser that steps: inside Friendly-SAM the one it is built on."""
    return optimiser.base_optimizer if isinstance(optimiser, FSam) else optimiser


def warm_up_cosine(step: int, total: int, warm_up: float) -> float:
    """Share of the peak learning rate in a step: a straight line up to 1, then half a cosine down to 0.

    Args:
        step: steps done before, from 0.
        total: steps in all.
        warm_up: share of them in which the rate rises, in [0, 1).

    Returns:
        In [0, 1]; above 0 for `step` < `total`, 0 from there on.

    Reference:
        Loshchilov and Hutter (2017), SGDR, arXiv 1608.03983, equation 5, without restarts.
    """
    rising = round(warm_up * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising))))


def build_schedule(optimiser: Optimizer, total: int, warm_up: float) -> LambdaLR:
    """`warm_up_cosine` on the optimiser that steps."""
    return LambdaLR(base_of(optimiser), lambda step: warm_up_cosine(step, total, warm_up))


class Average:
    """Exponential moving average of what trains; frozen weights are neither copied nor averaged.

    Args:
        model: its trainable parameters are followed; the plain model, not one that is wrapped for several devices.
        decay: share of the average that an update keeps, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._live = nn.ParameterList([p for p in model.parameters() if p.requires_grad])
        self._average = AveragedModel(self._live, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    @property
    def updates(self) -> int:
        """How many updates went into the average."""
        return int(self._average.n_averaged)

    def update(self) -> None:
        """Take in the weights as they are now; the first time they are the average."""
        self._average.update_parameters(self._live)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the averaged weights; without an update yet, its own."""
        if not self.updates:
            yield
            return
        kept = [p.detach().clone() for p in self._live]
        self._write(list(self._average.module.parameters()))
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._live, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and their count."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self._average.load_state_dict(state)


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: vectors (norms, biases, magnitudes, DoRAN's tau) are not decayed.

    Each parameter is there once, also where several modules share it.
    """
    trainable = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if not _is_vector(p)], "weight_decay": weight_decay},
        {"params": [p for p in trainable if _is_vector(p)], "weight_decay": 0.0},
    ]


def _is_vector(parameter: nn.Parameter) -> bool:
    """Whether it is one, also where peft keeps the magnitudes of a convolution as `(1, C, 1, 1)`."""
    return parameter.ndim <= 1 or (parameter.ndim > 2 and parameter.numel() == max(parameter.shape))
