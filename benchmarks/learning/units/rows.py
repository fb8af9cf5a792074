"""The rows of the table: each a handful of settings that differ from the product's, by their dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offline.config import RunConfig
from stage1.errors import SettingsError
from stage1.settings import override

BOTH = ("photographs", "scenes")
BASELINE, REFERENCE = "baseline", "lora"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: its short name.
        label: what the table calls it.
        changes: settings of a night by their dotted names. A name or a value that does not exist refuses the row.
        where_known: settings that say what is meant where there is a choice, and are left out where there is none.
        adapted: the backbone was adapted to unlabelled frames first.
        cost: of one training as a multiple of LoRA's, guessed, for the plan before anything was measured.
        tasks: where it makes sense.
    """

    name: str
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    where_known: Mapping[str, Any] = field(default_factory=dict)
    adapted: bool = False
    cost: float = 1.0
    tasks: tuple[str, ...] = BOTH


def _wide(height_px: int, width_px: int) -> dict[str, Any]:
    return {
        "preprocess.geometry": "wide",
        "preprocess.size_px": height_px,
        "preprocess.width_px": width_px,
    }


_FROZEN = {"model.adapter": "none"}
_LION = {"train_supervised.optimiser": "lion", "train_supervised.learning_rate": 4e-4}
_FSAM = {"train_supervised.optimiser": "fsam"}
_RISK = {"train_conformal_risk.enabled": True}
_ENTROPY = {**_RISK, "train_conformal_risk.risk_weight": 0.0, "train_conformal_risk.cross_entropy_weight": 1.0}
_LINEAR = {"model.head": "linear"}
# By trainings and not by minutes, so that the outcome does not depend on the machine.
_RACE = {"learn.recipe": "auto", "learn.budget_trainings": 8, "learn.starters": 9, "learn.folds": 3}

ROWS: tuple[Row, ...] = (
    Row(
        BASELINE,
        "baseline: frozen backbone, CLS + mean, MLP head",
        {**_FROZEN, "model.pooling": "cls_mean", "train_supervised.selection_weight": 0.0},
        cost=0.2,
    ),
    Row("head", "head only", _FROZEN, cost=0.3),
    Row("head_mean", "head only, pooling mean", {**_FROZEN, "model.pooling": "mean"}, cost=0.3),
    Row("head_largest", "head only, pooling largest", {**_FROZEN, "model.pooling": "largest"}, cost=0.3),
    Row("head_earlier", "head only, attention over block -3", {**_FROZEN, "model.pooled_blocks": (-3,)}, cost=0.3),
    Row("head_wide", "head only, wide 252 x 448", {**_FROZEN, **_wide(252, 448)}, cost=0.6, tasks=("photographs",)),
    Row(REFERENCE, "LoRA + AdamW"),
    Row("dora", "DoRA", {"model.adapter": "dora"}, cost=1.1),
    Row("doran", "DoRAN", {"model.adapter": "doran"}, cost=1.1),
    Row("lion", "LoRA + Lion", _LION),
    Row("fsam", "LoRA + F-SAM", _FSAM, {"train_supervised.fsam.form": "adapter"}, cost=2.0),
    Row("fsam_merged", "LoRA + F-SAM on merged weights", {**_FSAM, "train_supervised.fsam.form": "merged"}, cost=2.0),
    Row("explora", "LoRA after ExPLoRA", adapted=True),
    Row("risk", "LoRA + conformal risk training", _RISK, cost=1.1),
    Row("entropy", "LoRA + as many steps of cross-entropy", _ENTROPY, cost=1.1),
    Row("linear", "LoRA, linear head", _LINEAR),
    Row("linear_risk", "LoRA, linear head + conformal risk training", {**_LINEAR, **_RISK}, cost=1.1),
    Row("cls_mean", "LoRA, pooling CLS + mean", {"model.pooling": "cls_mean"}),
    Row("mean", "LoRA, pooling mean", {"model.pooling": "mean"}),
    Row("largest", "LoRA, pooling largest", {"model.pooling": "largest"}),
    Row(
        "two_blocks",
        "LoRA, attention over blocks -1 and -3",
        {"model.pooling": "attention", "model.pooled_blocks": (-1, -3)},
    ),
    Row("wide_252", "LoRA, wide 252 x 448", _wide(252, 448), cost=2.3, tasks=("photographs",)),
    # What the photographs hold is 256 px high. Whole patches of 14 px, and of 16 px; the other one is refused.
    Row("wide_280", "LoRA, wide 280 x 504", _wide(280, 504), cost=2.9, tasks=("scenes",)),
    Row("wide_288", "LoRA, wide 288 x 512", _wide(288, 512), cost=2.9, tasks=("scenes",)),
    Row("tiles", "LoRA, tiles", {"preprocess.geometry": "tiles"}, cost=5.0, tasks=("scenes",)),
    Row("distilled", "LoRA, distilled from a teacher", {"learn.teacher": "seeds"}, cost=1.2),
    Row("auto", "auto: the race", _RACE, cost=9.0),
)


def row_called(name: str) -> Row:
    """The row of that name.

    Raises:
        KeyError: there is none.
    """
    return {row.name: row for row in ROWS}[name]


def settled(config: RunConfig, row: Row) -> RunConfig:
    """A night's settings with those of a row.

    Raises:
        SettingsError: the program has no such setting or value; says which.
    """
    wanted = override(config, row.changes)
    for name, value in row.where_known.items():
        try:
            wanted = override(wanted, {name: value})
        except SettingsError as error:
            if not _unknown(error):
                raise
    return wanted


def _unknown(error: SettingsError) -> bool:
    """Whether a name, and not its value, is what was wrong."""
    return "Extra inputs are not permitted" in str(error)
