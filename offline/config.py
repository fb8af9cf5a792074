"""Configuration of a pipeline run, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from offline.split_settings import SplitSettings
from stage1.artifacts import Artifact
from stage1.calibration_settings import CalibrationSettings
from stage1.preprocess import PreprocessSettings

DINOV3 = "facebook/dinov3-vith16plus-pretrain-lvd1689m"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RandomBackbone(_Section):
    """A small DINOv3 with random weights: for demonstrations and tests, where no pretrained one can be had.

    Attributes:
        kind: tells it from a pretrained backbone.
        hidden: width; a multiple of `heads`.
        layers: blocks.
        heads: attention heads.
        patch_px: side of a patch.
        initializer_range: standard deviation of the weights; near hidden ** -0.5, or frozen layers carry no signal.
    """

    kind: Literal["random"] = "random"
    hidden: int = Field(default=64, ge=16)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=2, ge=1)
    patch_px: int = Field(default=16, ge=4)
    initializer_range: float = Field(default=0.12, gt=0)


class PretrainedBackbone(_Section):
    """A vision transformer from the Hugging Face hub or a local directory.

    Attributes:
        kind: tells it from a random backbone.
        name: hub id or directory.
    """

    kind: Literal["pretrained"] = "pretrained"
    name: str = DINOV3


class ModelSettings(_Section):
    """Backbone, adapter and heads.

    Attributes:
        backbone: where the features come from.
        adapter: low-rank adapter on the attention and MLP projections.
        rank: rank of the adapter; alpha is twice that.
        last_layers: number of blocks, counted from the end, that are adapted; None for all.
        head_hidden: width of the hidden layer of each head.
    """

    backbone: Annotated[RandomBackbone | PretrainedBackbone, Field(discriminator="kind")] = PretrainedBackbone()
    adapter: Literal["dora", "lora"] = "dora"
    rank: int = Field(default=16, ge=1)
    last_layers: int | None = Field(default=6, ge=1)
    head_hidden: int = Field(default=64, ge=1)


class AdaptSettings(_Section):
    """Domain adaptation by self-distillation on unlabelled images (`adapt_domain`).

    Attributes:
        enabled: off by default: the supervised stage starts from the backbone as it is.
        epochs: passes over the training images.
        batch_size: images a step, two views each.
        learning_rate: peak rate.
        prototypes: outputs of the projection head.
    """

    enabled: bool = False
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=2e-4, gt=0)
    prototypes: int = Field(default=8192, ge=2)


class TrainSettings(_Section):
    """Supervised training (`train_supervised`).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: peak rate of the one-cycle schedule.
        weight_decay: of AdamW; not applied to vectors.
        selection_weight: weight of the selection head's loss.
        label_smoothing: of the cross-entropy.
        gradient_clip: largest norm of a step's gradient.
    """

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    selection_weight: float = Field(default=0.5, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gradient_clip: float = Field(default=1.0, gt=0)


class ConformalTrainingSettings(_Section):
    """Conformal risk training of the heads (`train_conformal_risk`).

    Attributes:
        enabled: if not, the supervised model goes on unchanged.
        steps: gradient steps on cached features.
        batch_size: rows a step; one half calibrates, the other is scored.
        alpha: miss rate inside a batch; larger than the certified one, because a batch has few positives.
        learning_rate: of Adam.
        temperature: softness of the exit thresholds, in logits.
        cross_entropy_weight: weight of the classification loss that keeps the scores meaningful.
    """

    enabled: bool = True
    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=1024, ge=64)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    temperature: float = Field(default=0.25, gt=0)
    cross_entropy_weight: float = Field(default=0.1, ge=0)


class GateSettings(_Section):
    """When a challenger may replace the champion.

    Attributes:
        coverage_margin: largest loss of exit coverage on the test rows that is accepted.
        accuracy_margin: largest loss of Stage-1 accuracy on the test rows that is accepted.
    """

    coverage_margin: float = Field(default=0.05, ge=0, le=1)
    accuracy_margin: float = Field(default=0.03, ge=0, le=1)


class RunConfig(Artifact):
    """`config.json`: everything that decides the outcome of a run but the data.

    Attributes:
        seed: seed of training.
        preset: name of the preset it started from.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    seed: int = 0
    preset: str = "standard"
    preprocess: PreprocessSettings = PreprocessSettings()
    splits: SplitSettings = SplitSettings()
    model: ModelSettings = ModelSettings()
    adapt_domain: AdaptSettings = AdaptSettings()
    train_supervised: TrainSettings = TrainSettings()
    train_conformal_risk: ConformalTrainingSettings = ConformalTrainingSettings()
    calibrate_scrc: CalibrationSettings = CalibrationSettings()
    gate: GateSettings = GateSettings()


PRESETS: dict[str, RunConfig] = {
    "standard": RunConfig(),
    "tiny": RunConfig(
        preset="tiny",
        # Half the tokens of 224 px, so a third of the training time; a later, larger stage sees more.
        preprocess=PreprocessSettings(size_px=160),
        splits=SplitSettings(train=0.42, val_select=0.12, val_calib=0.34, test=0.12, calibration_folds=2),
        model=ModelSettings(backbone=RandomBackbone(), last_layers=None),
        adapt_domain=AdaptSettings(epochs=2, batch_size=32, prototypes=256),
        train_supervised=TrainSettings(epochs=4, batch_size=16, learning_rate=3e-3),
        train_conformal_risk=ConformalTrainingSettings(enabled=False, steps=200),
    ),
}


def override(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """A config with some values replaced.

    Args:
        config: where to start.
        changes: new values by dotted path, for example `{"train_supervised.epochs": 5}`.

    Raises:
        pydantic.ValidationError: a path or a value does not exist or does not fit.
    """
    tree = config.model_dump()
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return RunConfig.model_validate(tree)


def load_config(preset: str, path: Path | None, changes: dict[str, Any]) -> RunConfig:
    """The config of a run: a preset or a `config.json`, then single changes."""
    base = PRESETS[preset] if path is None else RunConfig.read(path)
    return override(base, changes)
