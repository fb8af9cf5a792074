"""What a teacher says of the rows that train, and the loss that follows it.

References:
    Hinton, Vinyals and Dean (2015), Distilling the knowledge in a neural network, arXiv 1503.02531, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from torch import Tensor
from torch.nn import functional as F

# A teacher that is certain would ask for infinite logits.
LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """What a teacher says of N rows.

    Attributes:
        probability: of roadwork, float64 `(N,)`; NaN where it says nothing.
        labelled: which rows have a label of a person as well, bool `(N,)`; the label of the others is never used.
        temperature: by which the log-odds of teacher and student are divided before they are compared.
        weight: of the teacher in the loss; that of the labels is one minus it.
    """

    probability: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    temperature: float
    weight: float

    @property
    def decides(self) -> list[object]:
        """Everything of it that decides a training, as JSON values."""
        said = [None if np.isnan(one) else float(one) for one in self.probability]
        return [said, self.labelled.tolist(), self.temperature, self.weight]

    @property
    def log_odds(self) -> Tensor:
        """Of the teacher, float32 `(N,)`; NaN where it says nothing."""
        found = logit(np.clip(self.probability, LEAST, 1 - LEAST))
        return torch.from_numpy(found).float()


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student from the teacher, both softened, times the squared temperature; a scalar.

    The factor keeps the size of the gradient while the temperature varies (section 2.1).

    Args:
        logits: of the student, `(N, 2)`, N at least 1.
        teacher: log-odds of roadwork, `(N,)`, finite.
        temperature: above 0.
    """
    softened = torch.stack([torch.zeros_like(teacher), teacher], dim=1) / temperature
    student, target = F.log_softmax(logits / temperature, dim=1), F.log_softmax(softened, dim=1)
    return temperature**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)
