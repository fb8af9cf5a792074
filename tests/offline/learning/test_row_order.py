"""What is done about a rare class, and which epochs are judged."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from offline.learning.row_order import balance_of, judged_epochs, log_shares
from offline.learning.settings import TrainSettings


@pytest.mark.parametrize(("positives", "expected"), [(50, "none"), (26, "none"), (24, "logits"), (90, "logits")])
def test_a_rare_class_of_either_kind_is_balanced(positives: int, expected: str) -> None:
    labels = np.array([1] * positives + [0] * (100 - positives), np.int8)
    assert balance_of(labels, "auto") == expected
    assert balance_of(labels, "batches") == "batches"
    assert log_shares(labels) == pytest.approx((np.log(1 - positives / 100), np.log(positives / 100)))


@pytest.mark.parametrize("epochs", [1, 5, 16, 17, 40, 333])
def test_judgements_are_spread_evenly_and_end_with_the_last_epoch(epochs: int) -> None:
    judged = sorted(judged_epochs(epochs, 16))
    assert judged[-1] == epochs
    assert len(judged) == min(16, epochs)
    gaps = np.diff([0, *judged])
    assert gaps.max() - gaps.min() <= 1


def test_a_config_of_balanced_batches_is_taken_over_and_both_names_are_refused() -> None:
    assert TrainSettings.model_validate({"class_balanced": True}).balance == "batches"
    assert TrainSettings.model_validate({"class_balanced": False}).balance == "none"
    with pytest.raises(ValidationError, match="set balance to batches"):
        TrainSettings.model_validate({"class_balanced": True, "balance": "none"})
