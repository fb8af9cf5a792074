from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stage1.errors import OutputsError
from stage1.outputs import Stage1Outputs

LOGITS = np.array([[0.5, 2.0], [1.0, -1.0], [0.0, 0.0]], np.float32)
SCORES = np.array([3.0, 1.0, 2.0], np.float32)


class TestChecks:
    @pytest.mark.parametrize(
        ("logits", "scores", "problem"),
        [
            (LOGITS[:, :1], SCORES, r"logits have shape \(3, 1\), expected \(N, 2\)"),
            (LOGITS.ravel(), SCORES, r"logits have shape \(6,\), expected \(N, 2\)"),
            (LOGITS, SCORES[:2], r"select_score has shape \(2,\), expected \(3,\)"),
            (LOGITS, SCORES[:, None], r"select_score has shape \(3, 1\), expected \(3,\)"),
            (LOGITS.astype(np.float64), SCORES, "logits are float64, expected float32"),
            (LOGITS, SCORES.astype(np.float16), "select_score are float16, expected float32"),
            (np.where(LOGITS == 2.0, np.nan, LOGITS), SCORES, "logits contain NaN or infinity in 1 places"),
            (
                LOGITS,
                np.where(SCORES < 3, np.float32(np.inf), SCORES),
                "select_score contain NaN or infinity in 2 places",
            ),
        ],
    )
    def test_what_is_not_an_output_is_refused(self, logits: Any, scores: Any, problem: str) -> None:
        with pytest.raises(OutputsError, match=problem):
            Stage1Outputs(logits, scores)

    def test_no_images_are_fine(self) -> None:
        assert len(Stage1Outputs(LOGITS[:0], SCORES[:0])) == 0


class TestOutputs:
    def test_roadwork_score_is_the_log_odds(self) -> None:
        outputs = Stage1Outputs(LOGITS, SCORES)
        assert outputs.roadwork_score.tolist() == [1.5, -2.0, 0.0]
        assert outputs.roadwork_score.dtype == np.float32

    @pytest.mark.parametrize("index", [np.array([2, 0]), np.array([True, False, True]), slice(1, None)])
    def test_rows_come_in_the_order_asked_for(self, index: Any) -> None:
        rows = Stage1Outputs(LOGITS, SCORES).rows(index)
        assert rows.logits.tolist() == LOGITS[index].tolist()
        assert rows.select_score.tolist() == SCORES[index].tolist()

    def test_concatenation_undoes_cutting(self) -> None:
        outputs = Stage1Outputs(LOGITS, SCORES)
        whole = Stage1Outputs.concatenate([outputs.rows(slice(0, 1)), outputs.rows(slice(1, 3))])
        assert whole.logits.tolist() == LOGITS.tolist()
        assert whole.select_score.tolist() == SCORES.tolist()

    def test_nothing_cannot_be_concatenated(self) -> None:
        with pytest.raises(OutputsError, match="no outputs"):
            Stage1Outputs.concatenate([])
