"""Decisions: prediction sets, actions and levels, for one image or a million."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

DEFERRED = -1
Labels = NDArray[np.int8]


class Action(StrEnum):
    """What the cascade does with an image."""

    EXIT = "EXIT"
    DEFER = "DEFER"


class Level(IntEnum):
    """How sure Stage-1 is; the first two exit, the last two go to Stage-2."""

    CONFIDENT_0 = 0
    CONFIDENT_1 = 1
    UNCERTAIN = 2
    AMBIGUOUS = 3


SIGN_BIT = np.int8(7)
TO_UNCERTAIN = np.int8(Level.UNCERTAIN - DEFERRED)


@dataclass(frozen=True)
class Decisions:
    """Decisions for N images.

    Attributes:
        exit_label: int8 `(N,)`; 0 or 1 where the image exits with that label, -1 where it is deferred.
        level: int8 `(N,)`; a `Level` for each image.
    """

    exit_label: Labels
    level: Labels

    def __len__(self) -> int:
        return len(self.exit_label)

    @property
    def exits(self) -> NDArray[np.bool_]:
        """Bool `(N,)`: the prediction set is a singleton."""
        mask: NDArray[np.bool_] = self.exit_label != DEFERRED
        return mask

    def action(self, row: int) -> Action:
        """The action for one image."""
        return Action.DEFER if self.exit_label[row] == DEFERRED else Action.EXIT

    def prediction_set(self, row: int) -> tuple[int, ...]:
        """The prediction set of one image: `(0,)`, `(1,)` or `(0, 1)`; never empty."""
        label = int(self.exit_label[row])
        return (0, 1) if label == DEFERRED else (label,)

    @classmethod
    def from_exit_labels(cls, exit_label: Labels, ambiguous: NDArray[np.bool_]) -> Self:
        """Decisions from exit labels, int8 `(N,)`, and the rows that, if deferred, are ambiguous."""
        # All bits set where deferred, none where it exits.
        deferred = exit_label >> SIGN_BIT
        return cls(exit_label, exit_label + ((ambiguous.view(np.int8) + TO_UNCERTAIN) & deferred))
