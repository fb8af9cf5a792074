"""What several stages declare to read, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.stages.common.seen_rows import Column, Seen

if TYPE_CHECKING:
    from offline.config import RunConfig

CALIBRATION = "calibrate_scrc"
# Of the calibration, what decides how rows are sent.
STREAM = tuple(f"{CALIBRATION}.{name}" for name in ("stream", "stream_weights", "seed"))
# And what a training judges its checkpoints by: the rule that val_select would choose. What is spent on a certificate,
# and how it is divided, trains nothing.
JUDGEMENT = (
    *STREAM,
    *(
        f"{CALIBRATION}.{name}"
        for name in (
            "algorithm",
            "risk",
            "alpha",
            "unit",
            "also",
            "gates",
            "gate",
            "agreement",
            "false_alarm_rate",
            "safety",
            "grid_size",
            "gate_size",
        )
    ),
)


def conformal_settings(config: RunConfig) -> tuple[str, ...]:
    """Settings of conformal risk training; where it is switched off, that it is."""
    return ("train_conformal_risk",) if config.train_conformal_risk.enabled else ("train_conformal_risk.enabled",)


def head_columns(config: RunConfig) -> tuple[str, ...]:
    """Columns of the metadata that named heads learn."""
    return tuple(sorted({head.column for head in config.model.heads.values()}))


def learned(config: RunConfig, *columns: Column) -> Seen:
    """Rows with their label, some more of their columns, and those that named heads learn."""
    return Seen(("label", *columns), head_columns(config))
