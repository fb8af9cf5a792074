"""What the stages of a night write down of themselves."""

from __future__ import annotations

from typing import ClassVar

from stage1.artifacts import Artifact


class TrainingRecord(Artifact):
    """`training.json`: what supervised training trained, and from where.

    Attributes:
        adapter: kind of adapter.
        trained_parameters: of adapters and heads.
        all_parameters: of the network with its adapters.
        cached: whether it started behind the frozen blocks.
        inputs: how, or why not.
        coverage: exit coverage on val_select of the checkpoint that was kept.
        loss: its mean cross-entropy there.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    adapter: str
    trained_parameters: int
    all_parameters: int
    cached: bool
    inputs: str
    coverage: float
    loss: float


class AdaptationRecord(Artifact):
    """`adaptation.json`: what domain adaptation saw and what came of it.

    Attributes:
        images: unlabelled images that it saw.
        unreadable: files of the directories of unlabelled images that could not be decoded.
        alike: those that were left out because they look like a row that judges.
        kept_epoch: the epoch whose backbone was kept; 0 if none was better than the backbone as it came.
        judge: how epochs were judged.
        before: Matthews correlation of the judge on val_select with the backbone as it came.
        epochs: mean loss terms of each epoch, the entropy of the mean assignment, and the judgement.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    images: int
    unreadable: int
    alike: int
    kept_epoch: int
    judge: str
    before: float | None
    epochs: tuple[dict[str, float], ...]


class ConformalRecord(Artifact):
    """`conformal_training.json`: what conformal risk training did to the exit coverage on val_select."""

    SCHEMA_VERSION: ClassVar[int] = 1

    enabled: bool
    coverage_before: float | None = None
    coverage_after: float | None = None


class ExportRecord(Artifact):
    """`export.json`: largest difference between torch and the graph in ONNX Runtime, and what a certificate is for."""

    SCHEMA_VERSION: ClassVar[int] = 1

    parity: float
    engine_sha256: str


class DriftRecord(Artifact):
    """`drift.json`: what an engine that is not the reference changes on val_select; it is certified afterwards.

    Attributes:
        engine: the engine.
        rows: rows of val_select.
        correlation: of the roadwork scores with those of the reference.
        largest: largest difference of a roadwork score from that of the reference.
        decided: rows that its own certified rule decides otherwise on the scores of the reference.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    engine: str
    rows: int
    correlation: float
    largest: float
    decided: int
