"""What one engine call returns for N images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from stage1.errors import OutputsError

Floats = NDArray[np.float32]
GateScore = Literal["margin", "select_score"]
"""What tells how far an image is to be trusted: the margin of the softmax, or the selection head."""


@dataclass(frozen=True)
class Stage1Outputs:
    """Outputs of Stage-1 for N images, checked on construction.

    Attributes:
        logits: float32 `(N, 2)`; column 1 is roadwork.
        select_score: float32 `(N,)`; larger means safer to trust.
        heads: logits of the named heads, float32 `(N, K)` each; class 0 of a head means no roadwork.

    Raises:
        OutputsError: a shape or dtype is wrong, or a value is NaN or infinite.
    """

    logits: Floats
    select_score: Floats
    heads: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.logits.shape[1] != 2:
            raise OutputsError(f"logits have shape {self.logits.shape}, expected (N, 2)")
        if self.select_score.shape != (len(self.logits),):
            raise OutputsError(f"select_score has shape {self.select_score.shape}, expected ({len(self.logits)},)")
        for name, values in (("logits", self.logits), ("select_score", self.select_score), *self.heads.items()):
            if values.dtype != np.float32:
                raise OutputsError(f"{name} are {values.dtype}, expected float32")
            if not np.isfinite(values).all():
                raise OutputsError(f"{name} contain NaN or infinity in {np.sum(~np.isfinite(values))} places")
        for name, values in self.heads.items():
            if values.ndim != 2 or len(values) != len(self.logits) or values.shape[1] < 2:
                raise OutputsError(f"head {name} has shape {values.shape}, expected ({len(self.logits)}, K), K >= 2")

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def roadwork_score(self) -> Floats:
        """Log-odds of roadwork before calibration, float32 `(N,)`: logit 1 minus logit 0."""
        score: Floats = self.logits[:, 1] - self.logits[:, 0]
        return score

    def confidence(self, gate_score: GateScore) -> Floats:
        """How far each image is to be trusted, float32 `(N,)`; larger is safer.

        Args:
            gate_score: `margin` is the distance of the two logits, of which the margin of the softmax is a rising
                function; `select_score` is what the selection head says.
        """
        if gate_score == "select_score":
            return self.select_score
        margin: Floats = np.abs(self.roadwork_score)
        return margin

    def head_score(self, name: str) -> Floats:
        """Log-odds of a named head that there is any roadwork, float32 `(N,)`: all classes but the first against it.

        Raises:
            OutputsError: there is no such head.
        """
        if name not in self.heads:
            raise OutputsError(
                f"no head {name!r}; the outputs have {', '.join(sorted(self.heads)) or 'no named heads'}"
            )
        logits = self.heads[name]
        score: Floats = np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0]
        return score

    def rows(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Self:
        """The outputs of some of the images, in the order of `index`."""
        heads = {name: values[index] for name, values in self.heads.items()}
        return type(self)(self.logits[index], self.select_score[index], heads)

    @classmethod
    def concatenate(cls, parts: Sequence[Stage1Outputs]) -> Self:
        """One object for several batches, in order.

        Raises:
            OutputsError: `parts` is empty, or the parts have different heads.
        """
        if not parts:
            raise OutputsError("no outputs to concatenate")
        names = {frozenset(part.heads) for part in parts}
        if len(names) > 1:
            raise OutputsError("the parts have different heads")
        heads = {name: np.concatenate([part.heads[name] for part in parts]) for name in parts[0].heads}
        logits, scores = [p.logits for p in parts], [p.select_score for p in parts]
        return cls(np.concatenate(logits), np.concatenate(scores), heads)
