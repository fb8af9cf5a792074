"""What a loop needs next, made in a thread beside it while the loop works on what it has.

The thread draws from a copy of the loop's generator. Whenever the loop takes a batch, its own generator is put into the
state that drawing this batch has left: a checkpoint knows nothing of what was drawn ahead, and a training that resumes
draws that again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Item = TypeVar("Item")
Made = TypeVar("Made")

# While one is used, the next is ready and the one after it is being made.
DEPTH = 2


class Drawing(Protocol):
    """Draws batches."""

    def draw(self, rows: NDArray[np.intp], generator: torch.Generator) -> Tensor:
        """A view of each of some rows, from this generator alone."""
        ...


def ahead(make: Callable[[Item], Made], items: Iterable[Item], depth: int = DEPTH) -> Generator[Made, None, None]:
    """What `make` makes of items, in their order, while the caller works on the one before; close it when done.

    Args:
        make: called in one thread, one item at a time; what it raises is raised where its result is taken.
        items: taken in the thread of the caller, not more than `depth` beyond the result that it has.
        depth: results that wait at most.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def drawn_ahead(
    inputs: Drawing, batches: Sequence[NDArray[np.intp]], generator: torch.Generator
) -> Generator[tuple[NDArray[np.intp], Tensor], None, None]:
    """The rows of each batch and a view of each of them, drawn ahead; close it when done.

    Args:
        inputs: draw the batches; used by one thread at a time.
        batches: rows of each.
        generator: when a batch is taken, it is in the state that drawing this batch has left.
    """
    own = torch.Generator()
    own.set_state(generator.get_state())

    def draw(rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        return inputs.draw(rows, own), own.get_state()

    made = ahead(draw, batches)
    try:
        for rows, (batch, state) in zip(batches, made, strict=True):
            generator.set_state(state)
            yield rows, batch
    finally:
        made.close()
