"""How many steps an adaptation has, which of them train what, and how fast its teacher follows.

The momentum of the teacher is not given but follows from the number of steps: published values were made for a hundred
thousand steps and more, and over a few hundred a teacher that keeps 0.992 of itself has hardly left its place when the
training ends. Its time constant is a twentieth of the steps in which the backbone trains, and constant: the rates fall
to zero at the end, so the teacher arrives where the student stops.

References:
    Caron et al. (2021), DINO, arXiv 2104.14294, section 3.1 (the teacher as an average of the student).
    Simeoni et al. (2025), DINOv3, arXiv 2508.10104, section 3 (constant momentum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from offline.learning.optimiser import warm_up_cosine
from offline.learning.settings import AdaptSettings

WARM_TEACHER = 0.3
HEAD_SHARE = 20
TEACHER_SHARE = 20
PROTOTYPES_AN_IMAGE = 16
FEWEST_PROTOTYPES, MOST_PROTOTYPES = 64, 65536


@dataclass(frozen=True)
class Schedule:
    """What each step of an adaptation does.

    Attributes:
        epoch_steps: steps in an epoch.
        total: steps in all.
        head_steps: steps at the start in which only the projection heads train.
        momentum: share of itself that the teacher keeps in a step, in [0, 1).
        warm_up: share of the steps of the backbone in which its rates rise.
        temperatures: of the teacher's assignments at the start and from 30 % of the steps on.
    """

    epoch_steps: int
    total: int
    head_steps: int
    momentum: float
    warm_up: float
    temperatures: tuple[float, float]

    @classmethod
    def of(cls, settings: AdaptSettings, images: int) -> Schedule:
        """The schedule for a number of images.

        Args:
            settings: epochs, batch size, and what is fixed.
            images: unlabelled images, at least two.
        """
        epoch_steps = max(1, images // settings.batch_size)
        total = settings.epochs * epoch_steps
        head_steps = min(settings.head_steps, max(1, total // HEAD_SHARE))
        return cls(
            epoch_steps=epoch_steps,
            total=total,
            head_steps=head_steps,
            momentum=momentum_for(total - head_steps) if settings.momentum is None else settings.momentum,
            warm_up=settings.warm_up,
            temperatures=settings.teacher_temperature,
        )

    def rate(self, step: int) -> float:
        """Share of the peak rates in a step; they rise anew when the backbone begins to move."""
        if step < self.head_steps:
            return 1.0
        return warm_up_cosine(step - self.head_steps, self.total - self.head_steps, self.warm_up)

    def temperature(self, step: int) -> float:
        """Temperature of the teacher's assignments in a step."""
        first, last = self.temperatures
        return first + (last - first) * min(1.0, step / max(1.0, WARM_TEACHER * self.total))


def momentum_for(steps: int) -> float:
    """Share of itself that a teacher keeps in a step, so that its time constant is a twentieth of the steps.

    Args:
        steps: in which the backbone trains.

    Returns:
        In [0, 1); 0 for no steps.
    """
    return math.exp(-TEACHER_SHARE / steps) if steps else 0.0


def prototypes_for(batch_size: int) -> int:
    """Clusters that fit a batch: sixteen an image, a power of two from 64 to 65,536; 1,024 at 64 images.

    Assignments are of equal size in each batch, so with many more clusters than large crops every crop is spread over
    as many of them as there are clusters to a crop, however sure the teacher is. Two crops an image leave it eight.
    DINOv2 has about eleven (65,536 clusters, 3,072 images).

    Args:
        batch_size: images a step.
    """
    wanted = 1 << round(math.log2(PROTOTYPES_AN_IMAGE * batch_size))
    return min(MOST_PROTOTYPES, max(FEWEST_PROTOTYPES, wanted))
