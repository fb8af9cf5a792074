"""A training that can be killed and goes on where it was, bit for bit.

A checkpoint is one file, replaced whole: what trains, the optimiser, the schedule, the state of everything that draws
random numbers and how far the loop is. It is read back without unpickling anything but tensors and plain values.

A training that is told to end (SIGTERM) finishes its step, writes a checkpoint and ends with status 75, which the
system's own list of exit statuses calls a temporary failure: start it again. One that is killed goes on from its last
periodic checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from offline.errors import TrainingError, TrainingInterrupted
from offline.learning.ranks import team
from stage1.artifacts import sha256_json, write_atomic

FILE = "training.checkpoint"
FORMAT = 1
EVERY_STEPS = 200
DIGEST_BYTES = 32


class Stateful(Protocol):
    """A part of a training that has a state: a network, an optimiser, a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:  # noqa: ANN401  torch's optimisers and modules differ in both
        """Go on from there."""
        ...


class Trained:
    """What training changes in networks: trainable parameters and buffers, not frozen weights.

    Args:
        nets: the networks, by any name; changed in place.
    """

    def __init__(self, **nets: nn.Module) -> None:
        self._nets = nets

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the tensors, by network and name."""
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Write the tensors back.

        Raises:
            TrainingError: the tensors are others than those that train here.
        """
        mine = self._tensors()
        if {name: t.shape for name, t in mine.items()} != {name: t.shape for name, t in state.items()}:
            raise TrainingError("the checkpoint is of another network; delete it to start again")
        for name, tensor in mine.items():
            tensor.copy_(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for net_name, net in self._nets.items():
            frozen = {name for name, p in net.named_parameters(remove_duplicate=False) if not p.requires_grad}
            state = net.state_dict(keep_vars=True)
            found |= {f"{net_name}.{name}": tensor for name, tensor in state.items() if name not in frozen}
        return found


@dataclass(frozen=True)
class Randomness:
    """Everything that draws random numbers in a training: its own generators and those inside torch.

    Attributes:
        order: of the rows.
        views: of the augmentation.
    """

    order: np.random.Generator
    views: torch.Generator

    @classmethod
    def seeded(cls, seed: int) -> Randomness:
        """Two generators of the same seed."""
        return cls(np.random.default_rng(seed), torch.Generator().manual_seed(seed))

    def state_dict(self) -> dict[str, Any]:
        """The states of all of them."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "order": self.order.bit_generator.state,
            "views": self.views.get_state(),
            "cpu": torch.get_rng_state(),
            "cuda": cuda,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on drawing from there."""
        self.order.bit_generator.state = state["order"]
        self.views.set_state(state["views"])
        torch.set_rng_state(state["cpu"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


class Checkpoints:
    """Writes and reads the checkpoint of one training.

    Args:
        directory: where it lives; None to write none, as a training that takes seconds does.
        decides: what decides the outcome of the training; a checkpoint of another one is refused.
        parts: what has a state, by name; restored in this order.
        every_steps: steps between two periodic checkpoints.
    """

    def __init__(
        self, directory: Path | None, decides: object, parts: Mapping[str, Stateful], every_steps: int = EVERY_STEPS
    ) -> None:
        self._path = None if directory is None else directory / FILE
        self._identity = sha256_json([FORMAT, torch.__version__, decides])
        self._parts = parts
        self._every = every_steps

    def restore(self) -> dict[str, Any] | None:
        """Put every part into its saved state.

        Returns:
            What `save` was told of the loop; None if there is no checkpoint, or a damaged one: start at the beginning.

        Raises:
            TrainingError: the checkpoint is of another training.
        """
        # Nobody writes the next one while others still read this one.
        found = None if self._path is None else _read(self._path)
        team.wait()
        if found is None:
            return None
        if found["identity"] != self._identity:
            raise TrainingError(
                f"{self._path}: is of a training with other settings, data or torch; delete it to start again"
            )
        for name, part in self._parts.items():
            part.load_state_dict(found["parts"][name])
        progress: dict[str, Any] = found["progress"]
        return progress

    def save(self, progress: Mapping[str, Any]) -> None:
        """Write the state of every part and how far the loop is; the last checkpoint stays until this one is whole."""
        if self._path is None or not team.leads():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        torch.save({"identity": self._identity, "parts": parts, "progress": dict(progress)}, buffer)
        content = buffer.getvalue()
        write_atomic(self._path, hashlib.sha256(content).digest() + content)

    @contextmanager
    def watch(self, progress: Mapping[str, Any]) -> Iterator[Watch]:
        """Within it, SIGTERM ends the training between two steps and leaves a checkpoint.

        Args:
            progress: how far the loop is; the loop keeps it up to date. What is in it when a step ends must be enough
                to go on.
        """
        watch = Watch(self, progress, self._every)
        with _terminating(watch) if self._path is not None else _nothing():
            try:
                yield watch
                watch.check()
            except TrainingInterrupted:
                self.save(progress)
                raise


class Watch:
    """Tells the loop when to write and when to end; see `Checkpoints.watch`."""

    def __init__(self, checkpoints: Checkpoints, progress: Mapping[str, Any], every: int) -> None:
        self._checkpoints = checkpoints
        self._progress = progress
        self._every = every
        self._since = 0
        self.told_to_end = False

    def step_done(self) -> None:
        """A step is done and `progress` says so.

        Raises:
            TrainingInterrupted: the training was told to end, in any of its processes.
        """
        self.told_to_end = team.any_of(self.told_to_end)
        self.check()
        self._since += 1
        if self._since >= self._every:
            self.save()

    def save(self) -> None:
        """Write a checkpoint now."""
        self._since = 0
        self._checkpoints.save(self._progress)

    def check(self) -> None:
        """Raise if the training was told to end; for the middle of what changes no state.

        Raises:
            TrainingInterrupted: it was.
        """
        if self.told_to_end:
            raise TrainingInterrupted("training was told to end; start it again and it goes on where it was")


@contextmanager
def interruptible(wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Within it, SIGTERM makes the function that it gives raise `TrainingInterrupted`; nothing is written.

    For work before a training that is kept elsewhere as it is done.
    """
    watch = Watch(Checkpoints(None, None, {}), {}, EVERY_STEPS)
    with _terminating(watch) if wanted else _nothing():
        yield watch.check


@contextmanager
def _terminating(watch: Watch) -> Iterator[None]:
    """Let SIGTERM ask for the end; only the main thread of a process may be asked.

    Raises:
        TrainingInterrupted: it was asked after the last time that the watch was looked at; whoever comes next would not
            know of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        watch.told_to_end = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    watch.check()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        found: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises the unpickler's own error, and nothing here imports that
        raise TrainingError(f"{path}: not a checkpoint of this program: {error}") from error
    return found
