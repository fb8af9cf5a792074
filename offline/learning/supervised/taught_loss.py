"""The loss of supervised training where a teacher has spoken as well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offline.learning.distillation.soft_labels import SoftLabels, distillation_loss
from offline.learning.settings import TrainSettings
from offline.learning.supervised.losses import supervised_loss
from stage1.model.net import NetOutputs


class TaughtLoss:
    """`weight` times the divergence from the teacher, and the rest times the loss of the labels.

    Each is a mean over the rows of a part that have it, and where none has the other is the whole loss.

    Args:
        soft: what the teacher says of the rows that train.
        settings: weights of the terms of the labels' loss.
        device: where training is.
        offset: of the logits in the loss of the labels, `(2,)`; the teacher speaks of the logits as they are served.
    """

    def __init__(
        self, soft: SoftLabels, settings: TrainSettings, device: torch.device, offset: Tensor | None = None
    ) -> None:
        self.soft = soft
        self._offset = offset
        self._settings = settings
        self._log_odds = soft.log_odds.to(device)
        self._labelled = torch.from_numpy(soft.labelled).to(device)

    def __call__(
        self,
        outputs: NetOutputs,
        auxiliary: Tensor | None,
        labels: Tensor,
        targets: Mapping[str, Tensor],
        rows: Tensor,
    ) -> Tensor:
        """The loss of some rows, a scalar.

        Args:
            outputs: of the network, fp32.
            auxiliary: logits `(N, 2)` of the head that exists in training only; None without it.
            labels: `(N,)`, 0 or 1.
            targets: of the named heads.
            rows: their numbers, `(N,)`.
        """
        teacher, labelled = self._log_odds[rows], self._labelled[rows]
        said = ~torch.isnan(teacher)
        terms = []
        if bool(labelled.any()):
            some = NetOutputs(
                outputs.logits[labelled],
                outputs.select_score[labelled],
                {name: logits[labelled] for name, logits in outputs.named.items()},
            )
            own = None if auxiliary is None else auxiliary[labelled]
            asked = {name: found[labelled] for name, found in targets.items()}
            loss = supervised_loss(some, own, labels[labelled], asked, self._settings, self._offset)
            terms.append((1 - self.soft.weight, loss))
        if bool(said.any()):
            found = distillation_loss(outputs.logits[said], teacher[said], self.soft.temperature)
            terms.append((self.soft.weight, found))
        if len(terms) == 1:
            return terms[0][1]
        return torch.stack([weight * loss for weight, loss in terms]).sum()
