"""How far a supervised training is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from offline.learning.checkpoint_score import SelectiveScore
from offline.learning.row_order import Balance
from offline.learning.supervised.start import at_chance


@dataclass
class TrainingState:
    """How far a training is; everything that its loop needs to go on.

    Attributes:
        epoch: epochs that are done.
        step: steps of the next epoch that are done.
        order: rows of that epoch in their order, `(N,)`; None before it is drawn.
        losses: of its steps.
        left_out: batches in a row that were left out because a number was not finite.
        records: one an epoch that was judged.
        first: the tensors as they were at the beginning; None once it is known that they are not needed again.
        given_up: whether the loss was still that of chance when a training must have started.
        score: fields of the `SelectiveScore` of the best checkpoint.
        best: its tensors.
        note: what to show.
    """

    epoch: int = 0
    step: int = 0
    order: Tensor | None = None
    losses: list[float] = field(default_factory=list)
    left_out: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    first: dict[str, Tensor] | None = None
    given_up: bool = False
    score: tuple[float, float, float] | None = None
    best: dict[str, Tensor] | None = None
    note: str = ""


@dataclass(frozen=True)
class TrainingOutcome:
    """What came of a training.

    Attributes:
        score: of the best checkpoint.
        records: one an epoch that was judged.
        cached: whether it started behind the frozen blocks.
        inputs: how, or why not.
        accumulation: parts in which a step's images went through the network in the end.
        balance: how the classes were balanced.
        steps: steps of the training.
        learning_rate: its peak rate.
        chance: least loss of an answer that is the same for every row, the classes weighing as in training, in nats.
        first_rate: peak rate of a first training that never left the loss of chance; None if there was none.
    """

    score: SelectiveScore
    records: list[dict[str, float]]
    cached: bool
    inputs: str
    accumulation: int
    balance: Balance
    steps: int
    learning_rate: float
    chance: float
    first_rate: float | None = None

    @property
    def lowest_loss(self) -> float:
        """Lowest loss on val_select, both classes weighing as in training, in nats."""
        return min(record["val_select_loss"] for record in self.records)

    @property
    def learned(self) -> bool:
        """Whether that loss is clearly below chance."""
        return not at_chance([record["val_select_loss"] for record in self.records], self.chance)
