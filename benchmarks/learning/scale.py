"""How much is computed: the sizes that a full and a quick run differ in."""

from __future__ import annotations

from dataclasses import dataclass

TUNING_SEED = 1000
HEAD_HIDDEN = 64
RANK = 8
FALSE_ALARMS = 0.05
STRICT, LOOSE = 0.02, 0.05


@dataclass(frozen=True)
class Scale:
    """Sizes of a run.

    Attributes:
        name: of the scale.
        head_rates: learning rates that a row tries on the tuning seed where only heads train.
        photograph_rates: as many where adapters train on photographs.
        street_rates: as many where adapters train on synthetic scenes.
        head_epochs: epochs where only heads train.
        photograph_epochs: epochs of adapters on photographs.
        street_epochs: epochs of adapters on synthetic scenes.
        steps: of what continues a training on kept features.
        views: augmented views kept of each image.
        repetitions: replicates of the bootstrap.
        cities: cities of the photographs, 13 at most; each is held out once.
        tuning_cities: cities held out while rates are tuned.
        city_rows: frames of one class that a city has at most.
        training_frames: of them with roadwork, at most so many train; the others only test.
        other_negatives: photographs from other sources.
        pretraining_scenes: synthetic scenes of domain A.
        pretraining_epochs: epochs on them.
        adaptation_epochs: epochs of ExPLoRA on the training images of domain B.
        scenes: of domain B, for train, val_select, val_calib and test.
    """

    name: str
    head_rates: tuple[float, ...]
    photograph_rates: tuple[float, ...]
    street_rates: tuple[float, ...]
    head_epochs: int
    photograph_epochs: int
    street_epochs: int
    steps: int
    views: int
    repetitions: int
    cities: int
    tuning_cities: int
    city_rows: int
    training_frames: int
    other_negatives: int
    pretraining_scenes: int
    pretraining_epochs: int
    adaptation_epochs: int
    scenes: tuple[int, int, int, int]


FULL = Scale(
    name="full",
    head_rates=(2e-4, 1e-3, 5e-3, 2e-2),
    photograph_rates=(5e-4, 2e-3, 5e-3, 1e-2),
    street_rates=(1e-3, 2e-3, 4e-3, 8e-3),
    head_epochs=12,
    photograph_epochs=2,
    street_epochs=6,
    steps=200,
    views=2,
    repetitions=2000,
    cities=13,
    tuning_cities=1,
    city_rows=40,
    training_frames=12,
    other_negatives=200,
    pretraining_scenes=1600,
    pretraining_epochs=10,
    adaptation_epochs=2,
    scenes=(960, 800, 1440, 1200),
)
QUICK = Scale(
    name="quick",
    head_rates=(1.5e-3,),
    photograph_rates=(5e-3,),
    street_rates=(5e-3,),
    head_epochs=2,
    photograph_epochs=1,
    street_epochs=1,
    steps=25,
    views=1,
    repetitions=100,
    cities=3,
    tuning_cities=1,
    city_rows=8,
    training_frames=6,
    other_negatives=24,
    pretraining_scenes=60,
    pretraining_epochs=1,
    adaptation_epochs=1,
    scenes=(80, 50, 80, 60),
)
SCALES = {scale.name: scale for scale in (FULL, QUICK)}
