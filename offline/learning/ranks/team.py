"""What the processes of a training tell each other: who they are, sums, and the word of the first.

A process is alone unless `torch.distributed` was started. One that leads a night works alone between the trainings that
all take part in, see `alone`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from offline.errors import TrainingError

Value = TypeVar("Value")

# Between two trainings the first process calibrates and judges, and the others wait.
LONGEST_WAIT = timedelta(days=7)

_solo = [0]


def start() -> None:
    """Meet the other processes that `torchrun` has started, by the addresses that it has set."""
    if not distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=LONGEST_WAIT)
        if torch.cuda.is_available():
            torch.cuda.set_device(distributed.get_node_local_rank())


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is alone, whoever else there is."""
    _solo[0] += 1
    try:
        yield
    finally:
        _solo[0] -= 1


@contextmanager
def together() -> Iterator[None]:
    """Within `alone`, work with the others all the same."""
    before, _solo[0] = _solo[0], 0
    try:
        yield
    finally:
        _solo[0] = before


def size() -> int:
    """Number of processes that train together."""
    there = distributed.is_available() and distributed.is_initialized() and not _solo[0]
    return distributed.get_world_size() if there else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def leads() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def wait() -> None:
    """Go on when all have come here."""
    if size() > 1:
        distributed.barrier()


@contextmanager
def leader_first() -> Iterator[None]:
    """Within it the first process works before all others, which then find what it has written."""
    if not leads():
        wait()
    try:
        yield
    finally:
        if leads():
            wait()


def shared(value: Value | None) -> Value:
    """The value of the first process, on all of them.

    Args:
        value: of the first process; of no importance on the others.
    """
    box: list[Value | None] = [value]
    if size() > 1:
        distributed.broadcast_object_list(box, src=0)
    found = box[0]
    assert found is not None
    return found


def any_of(flag: bool) -> bool:
    """Whether it is true on any process."""
    if size() == 1:
        return flag
    told = torch.tensor(float(flag), device=_device())
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return bool(told)


def total(value: float) -> float:
    """The sum of a number over the processes."""
    if size() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=_device())
    distributed.all_reduce(told)
    return float(told)


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Make the gradient of each parameter the sum of those of all processes; none stays none where nobody has one.

    Args:
        parameters: in the same order on all processes.
    """
    if size() == 1 or not parameters:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    distributed.all_reduce(present)
    wanted = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
    for p in wanted:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    add([p.grad for p in wanted if p.grad is not None])


@torch.no_grad()
def add(tensors: Sequence[Tensor]) -> None:
    """Make each tensor the sum of those of all processes, in place.

    Args:
        tensors: on one device, in the same order and of the same shapes on all processes.
    """
    if size() == 1 or not tensors:
        return
    # One message for all: a message for each tensor would wait for the network each time.
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, found in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(found.view_as(tensor))


def share_of(count: int) -> slice:
    """Which of so many rows are those of this process; shares differ by one row at most."""
    cuts = [count * place // size() for place in (rank(), rank() + 1)]
    return slice(*cuts)


def own(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows of a batch that are those of this process."""
    return rows[share_of(len(rows))]


def reseed(seed: int, step: int) -> None:
    """Let torch draw in this step what no other process draws, and the same when the step is done again.

    A process that is alone goes on drawing: what it drew before is in its checkpoint.

    Args:
        seed: of the training.
        step: number of the step in the training.
    """
    if size() > 1:
        told = hashlib.blake2b(f"{seed} {step} {rank()}".encode(), digest_size=7).digest()
        torch.manual_seed(int.from_bytes(told))


def check_batch(batch_size: int, setting: str) -> None:
    """Refuse a batch of which some process would get no row.

    Raises:
        TrainingError: with what to set.
    """
    if batch_size < size():
        raise TrainingError(
            f"{size()} processes share a batch of {batch_size} images: set {setting} to {size()} or more"
        )


def _device() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
