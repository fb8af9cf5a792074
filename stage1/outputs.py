"""What one engine call returns for N images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stage1.errors import OutputsError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stage1Outputs:
    """Outputs of Stage-1 for N images, checked on construction.

    Attributes:
        logits: float32 `(N, 2)`; column 1 is roadwork.
        select_score: float32 `(N,)`; larger means safer to trust.

    Raises:
        OutputsError: a shape or dtype is wrong, or a value is NaN or infinite.
    """

    logits: Floats
    select_score: Floats

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.logits.shape[1] != 2:
            raise OutputsError(f"logits have shape {self.logits.shape}, expected (N, 2)")
        if self.select_score.shape != (len(self.logits),):
            raise OutputsError(f"select_score has shape {self.select_score.shape}, expected ({len(self.logits)},)")
        for name, values in (("logits", self.logits), ("select_score", self.select_score)):
            if values.dtype != np.float32:
                raise OutputsError(f"{name} are {values.dtype}, expected float32")
            if not np.isfinite(values).all():
                raise OutputsError(f"{name} contain NaN or infinity in {np.sum(~np.isfinite(values))} places")

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def roadwork_score(self) -> Floats:
        """Log-odds of roadwork before calibration, float32 `(N,)`: logit 1 minus logit 0."""
        score: Floats = self.logits[:, 1] - self.logits[:, 0]
        return score

    def rows(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """The outputs of some of the images, in the order of `index`."""
        return type(self)(self.logits[index], self.select_score[index])

    @classmethod
    def concatenate(cls, parts: Sequence[Stage1Outputs]) -> Self:
        """One object for several batches, in order.

        Raises:
            OutputsError: `parts` is empty.
        """
        if not parts:
            raise OutputsError("no outputs to concatenate")
        return cls(np.concatenate([p.logits for p in parts]), np.concatenate([p.select_score for p in parts]))
