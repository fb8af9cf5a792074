"""Configuration of a pipeline run, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import model_validator

from engines.backends.registry import KnownOrAuto
from engines.backends.settings import CompileSettings
from engines.spec import EngineSpec
from offline.data.settings import PreflightSettings
from offline.evaluation.settings import EvalSettings
from offline.learning.settings import (
    AdaptSettings,
    CompareSettings,
    ConformalTrainingSettings,
    LearnSettings,
    TrainSettings,
)
from offline.publish.settings import GateSettings, ModelCardSettings
from offline.splits.settings import SplitSettings
from stage1.artifacts import Artifact
from stage1.certificate.settings import CalibrationSettings
from stage1.errors import SettingsError
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.preprocess import PreprocessSettings
from stage1.settings import override


class RunConfig(Artifact):
    """`config.json`: everything that decides the outcome of a run but the data.

    Attributes:
        seed: seed of training.
        preset: name of the preset that the config started from.
        engine: what the graph is compiled for; it is certified on the numbers of this engine, and served by it. With
            backend `auto`, what `cascade engines bench --record` has found the fastest on this machine.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    seed: int = 0
    preset: str = "standard"
    preprocess: PreprocessSettings = PreprocessSettings()
    preflight: PreflightSettings = PreflightSettings()
    splits: SplitSettings = SplitSettings()
    model: ModelSettings = ModelSettings()
    adapt_domain: AdaptSettings = AdaptSettings()
    learn: LearnSettings = LearnSettings()
    train_supervised: TrainSettings = TrainSettings()
    train_conformal_risk: ConformalTrainingSettings = ConformalTrainingSettings()
    compare_training: CompareSettings = CompareSettings()
    engine: KnownOrAuto = EngineSpec()
    compile: CompileSettings = CompileSettings()
    calibrate_scrc: CalibrationSettings = CalibrationSettings()
    eval_selective: EvalSettings = EvalSettings()
    gate: GateSettings = GateSettings()
    model_card: ModelCardSettings = ModelCardSettings()

    @model_validator(mode="before")
    @classmethod
    def _with_one_gate(cls, content: Any) -> Any:  # noqa: ANN401  whatever is in the file
        """Take over what a program wrote that knew `model.views`, when every gate asked the selection score."""
        match content:
            case {"model": {"views": _}, "calibrate_scrc": dict(asked)} if "gate" not in asked:
                return content | {"calibrate_scrc": asked | {"gate": "select_score"}}
        return content

    @model_validator(mode="after")
    def _races_from_the_start(self) -> Self:
        if self.learn.recipe == "auto" and self.train_supervised.warm_start is not None:
            raise ValueError(
                "learn.recipe auto holds rows out, and the adapter in train_supervised.warm_start has seen them: set "
                "learn.recipe to fixed, or train without it"
            )
        return self


PRESETS: dict[str, RunConfig] = {
    "standard": RunConfig(
        # After 222 steps no adapter is done, after 666 they are level; 800 are a minute of one GPU behind the cache.
        train_supervised=TrainSettings(augmentation="strong", least_steps=800),
        adapt_domain=AdaptSettings(gradient_checkpointing=True),
    ),
    "tiny": RunConfig(
        preset="tiny",
        # Half the tokens of 224 px, so a third of the training time; a later, larger stage sees more.
        preprocess=PreprocessSettings(size_px=160),
        splits=SplitSettings(train=0.42, val_select=0.12, val_calib=0.34, test=0.12),
        model=ModelSettings(backbone=RandomBackbone(), last_layers=None),
        adapt_domain=AdaptSettings(
            epochs=2, batch_size=32, prototypes=256, head_hidden=128, head_bottleneck=64, rank=16, head_steps=20
        ),
        train_supervised=TrainSettings(epochs=4, batch_size=16, learning_rate=3e-3, augmentation="validators"),
        train_conformal_risk=ConformalTrainingSettings(enabled=False, steps=200),
        # So small a model has a few confident false alarms; 2% of them would keep most roadwork from exiting.
        calibrate_scrc=CalibrationSettings(false_alarm_rate=0.05),
    ),
}


def load_config(preset: str, path: Path | None = None, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of a run: a preset or a `config.json`, then single changes.

    Args:
        preset: name of a preset; not looked at if there is a file.
        path: a `config.json`.
        changes: new values by dotted path, for example `{"train_supervised.epochs": 5}`.

    Raises:
        SettingsError: the preset, a name or a value is unknown or does not fit.
        stage1.errors.ArtifactError: the file cannot be read.
    """
    if path is None and preset not in PRESETS:
        raise SettingsError(f"no preset is called {preset!r}; there are {', '.join(PRESETS)}")
    return override(PRESETS[preset] if path is None else RunConfig.read(path), changes or {})
