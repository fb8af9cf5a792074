from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from stage1.metrics.classification import accuracy, matthews_correlation

LABELS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=60)


class TestAgreement:
    @given(LABELS)
    def test_matthews_is_sklearns(self, rows: list[tuple[int, int]]) -> None:
        labels, predictions = np.array(rows, np.int8).reshape(-1, 2).T
        constant = len(set(labels.tolist())) < 2 or len(set(predictions.tolist())) < 2
        expected = 0.0 if constant else matthews_corrcoef(labels, predictions)
        assert matthews_correlation(labels, predictions) == pytest.approx(expected, abs=1e-12)

    @given(LABELS)
    def test_accuracy_is_the_share_of_equals(self, rows: list[tuple[int, int]]) -> None:
        labels, predictions = np.array(rows, np.int8).reshape(-1, 2).T
        assert accuracy(labels, predictions) == pytest.approx(sum(a == b for a, b in rows) / max(1, len(rows)))
