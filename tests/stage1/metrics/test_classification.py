from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from stage1.metrics.classification import accuracy, matthews_correlation, roc_auc

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


def test_the_area_under_the_curve_is_sklearns_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 80), rng.integers(0, 9, 80).astype(float)
    weights = rng.integers(0, 4, (5, 80)).astype(float)
    found = roc_auc(scores, labels)(weights)
    expected = [roc_auc_score(labels, scores, sample_weight=each) for each in weights]
    assert found == pytest.approx(expected, abs=1e-12)


def test_an_area_without_one_of_the_classes_is_not_defined() -> None:
    area = roc_auc(np.asarray([0.1, 0.9]), np.asarray([0, 1]))
    assert area(np.asarray([[1.0, 1.0], [0.0, 2.0]])).tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
