"""What `torchrun` says of a process; torch is imported only where there are others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offline.pipeline.stage import ConfigT, DataT, Stage


def processes() -> int:
    """How many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that runs the night."""
    return int(os.environ.get("RANK", "0")) == 0


def take_part(stages: Callable[[], Sequence[Stage[ConfigT, DataT]]]) -> None:
    """On all processes but the first: take part in its trainings until it has ended its night.

    Args:
        stages: of the night.

    Raises:
        SystemExit: it has.
    """
    if processes() > 1 and not is_first():
        from offline.learning.ranks.night import follow  # noqa: PLC0415  imports torch

        raise SystemExit(follow(stages()))


def others() -> AbstractContextManager[None]:
    """Within it the other processes wait to be called; nothing without them."""
    if processes() == 1:
        return nullcontext()
    from offline.learning.ranks.night import leading  # noqa: PLC0415  imports torch

    return leading()


def calling_others(stages: Sequence[Stage[ConfigT, DataT]]) -> Sequence[Stage[ConfigT, DataT]]:
    """The stages, which call the other processes to the trainings if there are others."""
    if processes() == 1:
        return stages
    from offline.learning.ranks.night import led  # noqa: PLC0415  imports torch

    return led(stages)
