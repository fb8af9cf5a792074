"""One step of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from offline.errors import TrainingError
from offline.learning.optimiser import Average
from offline.learning.ranks import team
from offline.learning.supervised.sharpness import Climb

Batch = TypeVar("Batch")


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
        optimiser: takes the step.
        loss: mean loss of a micro-batch; runs the network at the precision that is wanted.
        clip: largest norm of the gradient that is used; Friendly-SAM's first gradient, which only gives the direction
            of the climb, is never clipped.
        scaler: for fp16.
        schedule: moved on after each update; a batch that was left out does not count.
        average: follows each update.
        halve: cuts a micro-batch in two, each with its share of it; none if it cannot be cut. With it, a pass for which
            memory is not enough is made again in smaller parts, from the same random numbers; so are all that follow.
            The gradient is that of the whole batch, up to the order in which it is summed.
        climb: of Friendly-SAM; the gradient that is used is then that of the point it climbs to.
        local_climb: with several devices, let each climb along the gradient of its own part of the batch, which saves
            one synchronisation.

    Attributes:
        halvings: how often micro-batches had to be cut in two; the caller brings them so, and checkpoints keep it.
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
        halve: Callable[[Batch], Sequence[tuple[Batch, float]]] | None = None,
        climb: Climb | None = None,
        local_climb: bool = False,
    ) -> None:
        self._model = model
        self._climb = climb
        self._base = optimiser
        self._loss = loss
        self._clip = math.inf if clip is None else clip
        self._scaler = scaler
        self._schedule = schedule
        self._average = average
        self._halve = halve
        self._local_climb = local_climb
        self.halvings = 0

    def state_dict(self) -> dict[str, int]:
        """Of what steps of this training have found out."""
        return {"halvings": self.halvings}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there."""
        self.halvings = state["halvings"]

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self._base.param_groups for p in group["params"]]

    def update(self, micro_batches: Sequence[Batch], shares: Sequence[float] | None = None) -> Update:
        """Take one step on a batch that may come in parts.

        Args:
            micro_batches: the parts.
            shares: share of each part in the batch, summing to 1; None if all have the same.

        Raises:
            TrainingError: memory is not enough for the smallest part.
        """
        weights = shares or [1 / len(micro_batches)] * len(micro_batches)
        parts: Sequence[tuple[Batch, float]] = list(zip(micro_batches, weights, strict=True))
        self._base.zero_grad(set_to_none=True)
        if self._climb is None:
            loss = self._fitting_pass(parts, synchronise=True)[0]
            update = self._step(self._summed(loss, self._parameters))
        else:
            update = self._climbed(self._climb, parts)
        self._base.zero_grad(set_to_none=True)
        if update.stepped:
            if self._schedule is not None:
                self._schedule.step()
            if self._average is not None:
                self._average.update()
        return update

    def _fitting_pass(
        self, parts: Sequence[tuple[Batch, float]], *, synchronise: bool
    ) -> tuple[float, Sequence[tuple[Batch, float]]]:
        """A pass in parts that fit into memory; returns the mean loss of the batch and the parts."""
        while True:
            before = [] if self._halve is None else random_state()
            try:
                return self._pass(parts, synchronise=synchronise), parts
            except torch.OutOfMemoryError as error:
                parts = self._halved(parts)
                if not parts:
                    raise TrainingError(
                        "the memory of the device is not enough for one image: set gradient_checkpointing to true, or "
                        "take a smaller backbone, preprocess.size_px or train_supervised.batch_size"
                    ) from error
            # Behind the handler: until its end the error holds what the pass had computed.
            self.halvings += 1
            self._base.zero_grad(set_to_none=True)
            if self._climb is not None:
                self._climb.drop_gradients()
            set_random_state(before)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _halved(self, parts: Sequence[tuple[Batch, float]]) -> list[tuple[Batch, float]]:
        """Each part in two, where it can be cut; none if no part can."""
        if self._halve is None:
            return []
        cut = [(self._halve(batch), batch, share) for batch, share in parts]
        if not any(found for found, _, _ in cut):
            return []
        return [(piece, share * own) for found, batch, share in cut for piece, own in (found or [(batch, 1.0)])]

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

    def _climbed(self, climb: Climb, parts: Sequence[tuple[Batch, float]]) -> Update:
        """Friendly-SAM's first pass and climb, and the step by the gradient of its second pass."""
        before = random_state()
        with climb.watched():
            loss, parts = self._fitting_pass(parts, synchronise=not self._local_climb)
        # Of weights that are moved and of those that train; one may be both.
        moved = {id(p): p for p in [*climb.weights, *self._parameters]}
        loss = self._summed(loss, [*moved.values()])
        used = {id(g): g for g in [*climb.gradients, *(p.grad for p in self._parameters if p.grad is not None)]}
        gradients = list(used.values())
        if self._scaler is not None:
            # By hand: the scaler unscales only once an update, and that is the second gradient's.
            torch._foreach_div_(gradients, self._scaler.get_scale())
        if not self._agreed(math.isfinite(loss) and _finite(gradients)):
            climb.drop_gradients()
            if self._scaler is not None:
                self._scaler.update(self._scaler.get_scale() * self._scaler.get_backoff_factor())
            return Update(loss, math.nan, stepped=False)
        after = random_state()
        try:
            climb.up()
            self._base.zero_grad(set_to_none=True)
            set_random_state(before)
            self._fitting_pass(parts, synchronise=True)
            self._summed(0.0, self._parameters)
        finally:
            climb.down()
            set_random_state(after)
        return self._step(loss)

    def _summed(self, loss: float, parameters: Sequence[Tensor]) -> float:
        """Add up what the processes have computed of a batch that they share; a wrapped network does it itself."""
        if hasattr(self._model, "no_sync"):
            return loss
        team.add_gradients(parameters)
        return team.total(loss)

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
        return not team.any_of(not finite)


def halves(batch: tuple[Tensor, Tensor]) -> list[tuple[tuple[Tensor, Tensor], float]]:
    """A micro-batch in two parts with their shares of it; none if it has one row.

    Args:
        batch: two tensors of the same number of rows.
    """
    first, second = batch
    if len(first) < 2:
        return []
    pieces = zip(first.tensor_split(2), second.tensor_split(2), strict=True)
    return [(piece, len(piece[0]) / len(first)) for piece in pieces]


def _finite(tensors: Sequence[Tensor]) -> bool:
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())


def random_state() -> list[Tensor]:
    """What dropout and stochastic depth draw from: the generator of the CPU, then of each GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_random_state(states: list[Tensor]) -> None:
    """Go on drawing from what `random_state` returned."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])
