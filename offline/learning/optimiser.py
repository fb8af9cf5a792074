"""Optimisers: AdamW and Lion, the climb of Friendly-SAM before their steps, their schedule, an average of the weights.

References:
    Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv 1711.05101 (AdamW).
    Chen et al. (2023), Symbolic discovery of optimization algorithms, arXiv 2302.06675 (Lion).
    Clark et al. (2020), ELECTRA, arXiv 2003.10555, appendix A (layer-wise decay of the rate).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_optimizer import Lion
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offline.errors import TrainingError
from offline.learning.settings import TrainSettings
from stage1.model.net import Stage1Net
from stage1.model.trunk import blocks_of

# The average forgets within this share of the steps, so that it does not remember how the training began.
AVERAGED_SHARE = 0.05


def build_optimiser(groups: list[dict[str, Any]], settings: TrainSettings) -> Optimizer:
    """The optimiser of the settings that takes the step; Friendly-SAM's climb before it is a `Climb`.

    Args:
        groups: parameter groups, each with its weight decay, and its rate where that is not the one of the settings.
        settings: kind and rates.
    """
    bases: dict[str, type[Optimizer]] = {"adamw": AdamW, "lion": Lion}
    kind = settings.fsam.base if settings.optimiser == "fsam" else settings.optimiser
    return bases[kind](groups, lr=settings.learning_rate)  # type: ignore[call-arg]


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
    """`warm_up_cosine` on every rate of an optimiser."""
    return LambdaLR(optimiser, lambda step: warm_up_cosine(step, total, warm_up))


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


def average_decay(wanted: float | str, steps: int) -> float:
    """Share that the average of the weights keeps in a step; 0 for no average.

    Args:
        wanted: the share itself, or `auto`: the average then forgets over a twentieth of the steps, so that it smooths
            the last of them and not the way there.
        steps: of the whole training.
    """
    return max(0.0, 1 - 1 / (AVERAGED_SHARE * steps)) if isinstance(wanted, str) else wanted


def parameter_groups(
    net: nn.Module, weight_decay: float, rate: float = 0.0, factors: dict[nn.Parameter, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: vectors (norms, biases, magnitudes, DoRAN's tau) are not decayed.

    Each parameter is there once, also where several modules share it. The groups of the highest rate come first.

    Args:
        net: whose parameters they are.
        weight_decay: of what is no vector.
        rate: peak rate of what no factor slows down; not looked at without factors.
        factors: of the rate, by parameter, of `layer_factors`; None for one rate, which the optimiser knows.
    """
    trainable = [p for p in net.parameters() if p.requires_grad]
    found = []
    for factor in sorted({1.0, *(factors or {}).values()}, reverse=True):
        ours = [p for p in trainable if (factors or {}).get(p, 1.0) == factor]
        own: dict[str, Any] = {} if factors is None else {"lr": rate * factor}
        found += [
            {"params": [p for p in ours if not _is_vector(p)], "weight_decay": weight_decay, **own},
            {"params": [p for p in ours if _is_vector(p)], "weight_decay": 0.0, **own},
        ]
    return [group for group in found if group["params"]] if factors else found


def layer_factors(net: Stage1Net, decay: float) -> dict[nn.Parameter, float]:
    """Factor of the rate of each parameter of the backbone, by its depth; heads are not in it and keep their rate.

    Of L blocks, block b, from 0, learns at `decay ** (L - b)` of the rate, what comes before the blocks at
    `decay ** (L + 1)`, and what follows them at the whole rate.

    Args:
        net: with adapters.
        decay: in (0, 1].

    Raises:
        TrainingError: the backbone has no blocks.
    """
    try:
        blocks = blocks_of(net.backbone)
    except ValueError as error:
        raise TrainingError(f"{error}, whose depth train_supervised.layer_decay needs: set it to 1") from error
    depth = {p: len(blocks) - index for index, block in enumerate(blocks) for p in block.parameters()}
    found: dict[nn.Parameter, float] = {}
    level = len(blocks) + 1
    for parameter in net.backbone.parameters():
        if parameter in depth:
            level = 0
        found[parameter] = decay ** depth.get(parameter, level)
    return found


def _is_vector(parameter: nn.Parameter) -> bool:
    """Whether it is one, also where peft keeps the magnitudes of a convolution as `(1, C, 1, 1)`."""
    return parameter.ndim <= 1 or (parameter.ndim > 2 and parameter.numel() == max(parameter.shape))
