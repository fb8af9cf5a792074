"""A stage's key holds what the stage reads, all of it and nothing else.

All of it: or a result of other settings would be taken for its own. Nothing else: or a night that changes the share of
delta that it spends would train for hours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offline.config import load_config
from offline.night import stages
from tests.support.stage_keys import changed_stages, stage_key

LEARN = {"train_supervised", "train_ablations"}
# Everything that can be switched on, so that its settings are read.
ALL_ON = {
    "adapt_domain.enabled": True,
    "train_conformal_risk.enabled": True,
    "learn.review": True,
    "model.backbone.layers": 2,
}
CERTIFY = {"screen", "calibrate_scrc", "compare_training", "publish"}
TRAIN = {"race", "train_supervised", "train_conformal_risk", "train_ablations"}


@pytest.mark.parametrize(
    ("changes", "concerned"),
    [
        # The probe that judges an adaptation pools as the network does.
        ({"model.pooling": "mean"}, {"adapt_domain", *TRAIN, "export", "eval_selective", "publish"}),
        ({"model.queries": 3}, {"adapt_domain", *TRAIN, "export", "eval_selective", "publish"}),
        ({"model.multi_scale": True}, {"adapt_domain", *TRAIN, "export", "eval_selective", "publish"}),
        # With a teacher no training without adaptation is set beside the model.
        ({"learn.teacher": "/somewhere/teacher"}, {"race", *LEARN, "publish"}),
        # The intervals of the report are drawn by it.
        (
            {"seed": 7},
            {"adapt_domain", *TRAIN, "compare_training", "calibrate_scrc", "eval_selective", "publish"},
        ),
        # What a certificate costs and promises trains nothing.
        ({"calibrate_scrc.delta": 0.2}, CERTIFY),
        ({"calibrate_scrc.looks": 3}, CERTIFY),
        ({"calibrate_scrc.spending": "single_use"}, CERTIFY),
        ({"calibrate_scrc.ambiguous_share": 0.2}, CERTIFY),
        ({"calibrate_scrc.mode": "balanced"}, {"splits", *CERTIFY}),
        # Heads are kept where more exits at the risk that is to be certified.
        ({"calibrate_scrc.alpha": 0.03}, {*TRAIN, *CERTIFY}),
        ({"gate.keep": 3}, {"publish"}),
        ({"gate.accept_weaker_claim": True}, {"screen", "publish"}),
        ({"model_card.name": "another"}, {"publish"}),
        ({"eval_selective.cell_rows": 5}, {"eval_selective", "publish"}),
        ({"compare_training.repetitions": 9}, {"compare_training", "publish"}),
        ({"compare_training.baseline": False}, {"train_ablations", "publish"}),
        ({"splits.seed": 3}, {"splits", "publish"}),
        ({"preflight.most_left_out": 0.2}, {"splits", "publish"}),
        # Of TensorRT alone.
        ({"compile.refittable": True}, {"publish"}),
        # How far a run has to go back after a kill, and how many steps it takes between.
        ({"adapt_domain.rank": 4}, {"adapt_domain", "publish"}),
        ({"train_conformal_risk.steps": 9}, {"race", "train_conformal_risk", "train_ablations", "publish"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_concerns_the_stages_that_read_it(changes: dict[str, Any], concerned: set[str]) -> None:
    before, after = load_config("tiny", None, ALL_ON), load_config("tiny", None, ALL_ON | changes)
    assert changed_stages(before, after) == concerned


def test_a_picture_that_a_table_of_verdicts_names_is_in_the_keys_of_what_trains_on_it(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(b"a picture")
    (tmp_path / "verdicts.csv").write_text("image,probability\none.jpg,0.9\n")
    config = load_config("tiny", None, {"learn.teacher": str(tmp_path / "verdicts.csv")})

    def keys() -> dict[str, str]:
        return {stage.name: stage_key(stage, config) for stage in stages()}

    before = keys()
    assert keys() == before
    (tmp_path / "one.jpg").write_bytes(b"another picture")
    assert {name for name, key in keys().items() if key != before[name]} == {"train_supervised"}


@pytest.mark.parametrize(
    "changes",
    [
        {"adapt_domain.epochs": 7},
        {"train_conformal_risk.steps": 9},
        {"learn.folds": 3},
        {"learn.teacher_weight": 0.1},
        {"learn.budget_minutes": 3},
        {"compile.refittable": True},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_setting_of_what_is_switched_off_concerns_only_the_record(changes: dict[str, Any]) -> None:
    off = {"learn.review": False, "train_conformal_risk.enabled": False, "compare_training.cross_entropy": False}
    before, after = load_config("tiny", None, off), load_config("tiny", None, off | changes)
    assert changed_stages(before, after) == {"publish"}
