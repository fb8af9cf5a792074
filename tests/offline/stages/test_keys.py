"""What a stage reads of the config is in its key, or a result of other settings would be taken for its own."""

from __future__ import annotations

import pytest

from offline.config import load_config
from offline.night import stages
from offline.pipeline.content_key import stage_key


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        # The probe that judges an adaptation pools as the network does.
        ("adapt_domain", {"model.pooling": "mean"}),
        ("adapt_domain", {"model.queries": 3}),
        ("adapt_domain", {"model.multi_scale": True}),
        # With a teacher no training without adaptation is set beside the model.
        ("compare_training", {"learn.teacher": "/somewhere/teacher"}),
        # The intervals of the report are drawn by it.
        ("eval_selective", {"seed": 7}),
    ],
)
def test_a_setting_that_a_stage_reads_is_in_its_key(stage: str, changes: dict[str, object]) -> None:
    found = next(one for one in stages() if one.name == stage)
    inputs = dict.fromkeys(found.needs, "input")
    keys = {stage_key(found, load_config("tiny", None, chosen), "data", inputs) for chosen in ({}, changes)}
    assert len(keys) == 2
