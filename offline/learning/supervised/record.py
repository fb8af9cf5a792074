"""What supervised training was, as the night keeps and tells it; without torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import JsonValue

from stage1.artifacts import Artifact


class TrainingRecord(Artifact):
    """`training.json`: what supervised training trained, and from where.

    Attributes:
        adapter: kind of adapter.
        trained_parameters: of adapters and heads.
        all_parameters: of the network with its adapters.
        cached: whether it started behind the frozen blocks.
        inputs: how, or why not.
        accumulation: parts in which a step's images went through the network in the end; more than
            `train_supervised.accumulation` where memory was not enough.
        coverage: exit coverage on val_select of the checkpoint that was kept.
        loss: its mean cross-entropy there.
        value: its score; see `offline.learning.checkpoint_score`.
        most_coverage: highest exit coverage on val_select of any checkpoint.
        balance: how the classes were balanced: `none`, `batches` or `logits`.
        steps: of the training that was kept.
        learning_rate: its peak rate.
        first_rate: peak rate of a first training that never left the loss of chance; None if there was none.
        chance: least loss of an answer that is the same for every row, the classes weighing as in training.
        lowest_loss: lowest loss on val_select of the training that was kept, both classes weighing as in training.
        learned: whether that is clearly below chance.
        teacher: whose answers it followed beside the labels, and in what; None for nobody.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    adapter: str
    trained_parameters: int
    all_parameters: int
    cached: bool
    inputs: str
    accumulation: int = 1
    coverage: float
    loss: float
    value: float = 0.0
    most_coverage: float = 0.0
    balance: str = "none"
    steps: int = 0
    learning_rate: float = 0.0
    first_rate: float | None = None
    chance: float = 0.0
    lowest_loss: float = 0.0
    learned: bool = True
    teacher: dict[str, JsonValue] | None = None

    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, one sentence each."""
        found = []
        if self.first_rate is not None:
            found.append(
                f"training began again at a learning rate of {self.learning_rate:.2g}: at {self.first_rate:.2g} a "
                "third of its steps had not brought the loss on val_select below that of chance"
            )
        if not self.learned:
            found.append(
                f"training learned nothing that helps on val_select: its loss there was {self.lowest_loss:.3f} at "
                f"best, and the same answer for every image has {self.chance:.3f}; look at the labels, or give more "
                "images, more steps or another train_supervised.learning_rate"
            )
        return tuple(found)
