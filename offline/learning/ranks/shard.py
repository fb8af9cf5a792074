"""The part of every batch that one process draws, with the generator in the state that the whole batch leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline.errors import TrainingError
from offline.learning.ranks import team
from offline.learning.settings import TrainSettings
from offline.learning.supervised.inputs import Inputs


def check_shares(settings: TrainSettings) -> None:
    """Refuse a training that processes cannot share.

    Raises:
        TrainingError: with what to set.
    """
    team.check_batch(settings.batch_size, "train_supervised.batch_size")
    if team.size() > 1 and settings.selection == "selectivenet":
        raise TrainingError(
            "train_supervised.selection is selectivenet, which holds a whole batch to a coverage, and several "
            "processes share a batch: choose another one, or train on one process"
        )


@dataclass(frozen=True)
class Shard:
    """Draws the rows of this process; so every process knows what the others draw, and a checkpoint is that of all.

    Attributes:
        inputs: draws the whole.
    """

    inputs: Inputs

    def draw(self, rows: NDArray[np.intp], generator: torch.Generator) -> Tensor:
        """A view of each of the rows that are those of this process; see `Inputs.draw`.

        Args:
            rows: of the whole batch.
            generator: as if all of them were drawn.
        """
        return self.inputs.draw(rows, generator, team.share_of(len(rows)))
