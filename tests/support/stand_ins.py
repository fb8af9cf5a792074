"""The stages of a night with stand-ins for those that train and compute, which write what follows from what they read.

What a stage declares to read is its own; the stand-in writes every file that others read of it, with the hash of its
view in it, so its outcome is another one exactly if anything that it reads is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from offline.config import RunConfig
from offline.learning.race.outcome import RaceRecord
from offline.night import stages
from offline.pipeline.run_files import RACE
from offline.pipeline.settings_view import ALL

if TYPE_CHECKING:
    from offline.stages.common.context import Context, NightStage

REAL = {"splits"}
# Of a stage all of whose files are read.
SOME = {"export": ("model.onnx", "spec.json", "preprocess.json"), "train_conformal_risk": ("model_best.safetensors",)}


def stand_in_stages(config: RunConfig) -> tuple[NightStage, ...]:
    """The stages, of which only the first is real.

    Args:
        config: with which it is known what each stage reads of another one.
    """
    found = stages()
    read: dict[str, set[str]] = {stage.name: set(SOME.get(stage.name, ())) for stage in found}
    for stage in found:
        for name, files in stage.reads(config).files.items():
            read[name] |= set(files) - {ALL}
    return tuple(
        stage if stage.name in REAL else replace(stage, run=_Writes(sorted(read[stage.name]))) for stage in found
    )


class _Writes:
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __call__(self, context: Context) -> None:
        """Write the key of the stage, which is the hash of all that it is handed."""
        for name in self._names:
            if name == RACE:
                RaceRecord(recipe=context.config.learn.recipe).write(context.out / name)
            else:
                (context.out / name).write_text(f"{name} of {context.key}\n")
