"""One optimiser update at a time: AdamW, Lion and Friendly-SAM, in micro-batches and in reduced precision.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from pytorch_optimizer import FriendlySAM, Lion
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from offline.config import Precision, TrainSettings
from offline.errors import TrainingError

Batch = TypeVar("Batch")
AUTOCAST = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which a forward pass runs at this precision; `auto` is bf16 on a GPU and fp32 on a CPU."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=AUTOCAST[precision])
    return context


def build_scaler(device: torch.device, precision: Precision) -> GradScaler | None:
    """Loss scaling, which only fp16 needs: small gradients would vanish in it."""
    return GradScaler(device.type) if precision == "fp16" else None


@dataclass(frozen=True)
class Update:
    """What became of one batch.

    Attributes:
        loss: mean loss at the weights before the update.
        norm: norm of the gradient that was clipped and used; NaN if there was none to use.
        stepped: False if a loss or a gradient was not finite; then the weights are what they were before.
    """

    loss: float
    norm: float
    stepped: bool


class Updater(Generic[Batch]):
    """Turns batches into updates.

    Args:
        model: the network; one that is wrapped for several devices synchronises once a pass.
        optimiser: of `build_optimiser`.
        loss: mean loss of a micro-batch; runs the network at the precision that is wanted.
        clip: largest norm of the gradient that is used; Friendly-SAM's first gradient, which only gives the direction
            of the climb, is never clipped.
        scaler: for fp16.
        schedule: moved on after each update; a batch that was left out does not count.
        average: follows each update.
        local_climb: with several devices, let each climb along the gradient of its own part of the batch, which saves
            one synchronisation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        loss: Callable[[Batch], Tensor],
        *,
        clip: float | None = None,
        scaler: GradScaler | None = None,
        schedule: LRScheduler | None = None,
        average: Average | None = None,
        local_climb: bool = False,
    ) -> None:
        self._model = model
        self._sam = optimiser if isinstance(optimiser, FSam) else None
        self._base = base_of(optimiser)
        self._loss = loss
        self._clip = math.inf if clip is None else clip
        self._scaler = scaler
        self._schedule = schedule
        self._average = average
        self._local_climb = local_climb

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self._base.param_groups for p in group["params"]]

    def update(self, micro_batches: Sequence[Batch], shares: Sequence[float] | None = None) -> Update:
        """Take one step on a batch that may come in parts.

        Args:
            micro_batches: the parts.
            shares: share of each part in the batch, summing to 1; None if all have the same.
        """
        weights = shares or [1 / len(micro_batches)] * len(micro_batches)
        parts = list(zip(micro_batches, weights, strict=True))
        self._base.zero_grad(set_to_none=True)
        before = [] if self._sam is None else _random_state()
        loss = self._pass(parts, synchronise=self._sam is None or not self._local_climb)
        climbed = self._sam is None or self._climb(loss, before, parts)
        update = self._step(loss) if climbed else Update(loss, math.nan, stepped=False)
        self._base.zero_grad(set_to_none=True)
        if update.stepped:
            if self._schedule is not None:
                self._schedule.step()
            if self._average is not None:
                self._average.update()
        return update

    def _pass(self, parts: Sequence[tuple[Batch, float]], *, synchronise: bool) -> float:
        """Add up the gradient of the batch; returns its mean loss."""
        total = 0.0
        for index, (batch, share) in enumerate(parts):
            held = not synchronise or index < len(parts) - 1
            no_sync: Callable[[], AbstractContextManager[None]] = getattr(self._model, "no_sync", nullcontext)
            with no_sync() if held else nullcontext():
                loss = self._loss(batch) * share
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _climb(self, loss: float, before: list[Tensor], parts: Sequence[tuple[Batch, float]]) -> bool:
        """Friendly-SAM's first step and second pass; False if the first gradient is of no use."""
        assert self._sam is not None
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if self._scaler is not None:
            # By hand: the scaler unscales only once an update, and that is the second gradient's.
            torch._foreach_div_(gradients, self._scaler.get_scale())
        if not self._agreed(math.isfinite(loss) and _finite(gradients)):
            if self._scaler is not None:
                self._scaler.update(self._scaler.get_scale() * self._scaler.get_backoff_factor())
            return False
        after = _random_state()
        try:
            self._sam.first_step(zero_grad=True)
            _set_random_state(before)
            self._pass(parts, synchronise=True)
        finally:
            self._sam.restore()
            _set_random_state(after)
        return True

    def _step(self, loss: float) -> Update:
        if self._scaler is not None:
            self._scaler.unscale_(self._base)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._clip))
        finite = self._agreed(math.isfinite(loss) and math.isfinite(norm))
        if self._scaler is None:
            if finite:
                self._base.step()
            return Update(loss, norm, finite)
        scale = self._scaler.get_scale()
        if finite:
            self._scaler.step(self._base)
        self._scaler.update(None if finite else scale * self._scaler.get_backoff_factor())
        return Update(loss, norm, finite)

    def _agreed(self, finite: bool) -> bool:
        """Whether it is finite on every device: all of them step, or none."""
        if not torch.distributed.is_initialized():
            return finite
        flag = torch.tensor(float(finite), device=self._parameters[0].device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag)


def _finite(tensors: Sequence[Tensor]) -> bool:
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())


def _random_state() -> list[Tensor]:
    """What dropout and stochastic depth draw from: the generator of the CPU, then of each GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


@contextmanager
def recomputing(backbone: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it the backbone computes its activations twice instead of keeping them.

    Args:
        backbone: of transformers, with or without adapters.
        wanted: otherwise nothing changes.

    Raises:
        TrainingError: this backbone cannot.
    """
    if not wanted:
        yield
        return
    try:
        # Not the reentrant kind: with frozen weights below, no gradient would come through it.
        backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    except (AttributeError, ValueError) as error:
        raise TrainingError(
            f"{type(backbone).__name__} has no gradient checkpointing: set gradient_checkpointing to false"
        ) from error
    try:
        yield
    finally:
        backbone.activation_checkpointing_disable()  # type: ignore[operator]
