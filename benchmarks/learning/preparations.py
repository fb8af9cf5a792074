"""What is made before anything is trained: pixels, kept features, kept states, and the backbones of both domains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.learning import photographs, streets
from benchmarks.learning.arena import Arena, Workplace
from benchmarks.learning.methods import TABLES, Table
from benchmarks.learning.networks import Kept, backbone, make
from benchmarks.learning.scale import HEAD_HIDDEN, TUNING_SEED
from benchmarks.learning.task import Meter, Result, Task
from offline.learning.predict import features
from offline.learning.self_distillation.adapt import adapt_domain
from offline.learning.self_distillation.probe import feature_judge
from offline.learning.settings import AdaptSettings
from stage1.model.backbones import build
from stage1.model.settings import ModelSettings, PretrainedBackbone, RandomBackbone
from stage1.preprocess import Pixels, PreprocessSettings

RANDOM = RandomBackbone(hidden=96, layers=8, heads=3, patch_px=16, initializer_range=0.1)
SMALL_HEADS: dict[str, Any] = {"prototypes": 512, "head_hidden": 256, "head_bottleneck": 64, "patience": None}
FEATURES = {"a": tuple(photographs.SIZES), "b": ("whole_96",)}


def arena_of(place: Workplace, table: str) -> Arena:
    """The data of a table."""
    return photographs.arena(place) if table == "a" else streets.arena(place)


def preparations(table: Table, seeds: tuple[int, ...]) -> list[Task]:
    """Everything that is prepared for a table.

    Args:
        table: of the run.
        seeds: of the trainings, the tuning seed first.
    """
    ground = ("pixels",) if table.name == "a" else ("pixels", "backbone")
    made = [_task(table.name, "pixels", ())]
    if table.name == "b":
        made.append(_task("b", "backbone", ("pixels",)))
    # One process writes to a cache at a time, so the seeds come one after another.
    for depth in ("states", "head"):
        for place, seed in enumerate(seeds):
            before = (f"{depth}.{seeds[place - 1]}",) if place else ground
            made.append(_task(table.name, f"{depth}.{seed}", before, seed))
    made += [_task(table.name, f"features.{name}", ground) for name in FEATURES[table.name]]
    if table.name == "b":
        made += [_task("b", f"adapted.{seed}", ground, seed) for seed in seeds]
    return made


def _task(table: str, what: str, needs: tuple[str, ...], seed: int = 0) -> Task:
    return Task(key_of(table, what), table, "prepare", what, seed, needs=tuple(key_of(table, n) for n in needs))


def key_of(table: str, what: str) -> str:
    """Key of a preparation."""
    return f"{table}.prepare.{what}"


def prepare(place: Workplace, task: Task, meter: Meter) -> Result:
    """Make one of them."""
    torch.set_num_threads(1)
    kind, _, detail = task.what.partition(".")
    if kind == "pixels":
        _draw(place, task.table)
    elif kind == "backbone":
        with meter.running():
            _pretrain(place)
    elif kind == "adapted":
        _adapt(place, task.seed, meter)
    elif kind == "features":
        _keep_features(place, task.table, detail)
    else:
        _keep_states(place, task.table, "head" if kind == "head" else "dora", task.seed, meter)
    return meter.result(task.key, 0.0)


def _draw(place: Workplace, table: str) -> None:
    if table == "b":
        streets.draw(place)
        return
    data = arena_of(place, table).data
    for size_px in sorted(set(photographs.SIZES.values())):
        np.save(photographs.pixels(place, size_px), data.array(PreprocessSettings(size_px=size_px)))


def _keep_features(place: Workplace, table: str, name: str) -> None:
    """Features of images as they are, in all rows, of the backbone as it came."""
    size_px = photographs.SIZES.get(name, streets.SIZE_PX)
    images: Pixels = np.load(photographs.pixels(place, size_px) if table == "a" else place.path("b", "pixels_b.npy"))
    settings = ModelSettings(
        backbone=PretrainedBackbone(name=str(backbone(place, table))),
        views="whole_and_quadrants" if name.startswith("quadrants") else "whole",
    )
    net = build(settings, shape=(size_px, size_px), seed=0)
    np.save(place.path(table, f"features_{name}.npy"), features(net, images).numpy())


def _keep_states(
    place: Workplace, table: str, method: str, seed: int, meter: Meter, adapted: int | None = None
) -> None:
    """Keep what the frozen blocks of a method make of all images as they are, and of the views of a seed."""
    arena = arena_of(place, table)
    net = make(TABLES[table].method(method), backbone(place, table, adapted), arena.size_px, seed)
    Kept(arena, place.path(table, "cache"), meter).fill(net, place.scale.views, seed)


def _pretrain(place: Workplace) -> None:
    """Self-supervised training from scratch on unlabelled scenes of domain A."""
    images: Pixels = np.load(place.path("b", "pixels_a.npy"))
    net = build(
        ModelSettings(backbone=RANDOM, head_hidden=HEAD_HIDDEN),
        shape=(streets.SIZE_PX, streets.SIZE_PX),
        seed=TUNING_SEED,
    )
    settings = AdaptSettings(
        enabled=True,
        epochs=place.scale.pretraining_epochs,
        unfrozen_blocks=None,
        learning_rate=1e-3,
        head_steps=0,
        **SMALL_HEADS,
    )
    adapt_domain(net, images, settings, seed=TUNING_SEED, progress=lambda *_: None)
    _save(net.backbone, backbone(place, "b"))


def _adapt(place: Workplace, seed: int, meter: Meter) -> None:
    """ExPLoRA on the training images of domain B; labels choose the epoch and train nothing, as in the pipeline."""
    arena = arena_of(place, "b")
    model = ModelSettings(backbone=PretrainedBackbone(name=str(backbone(place, "b"))), adapter="none")
    net = build(model, shape=(arena.size_px, arena.size_px), seed=seed)
    settings = AdaptSettings(
        enabled=True, epochs=place.scale.adaptation_epochs, rank=16, learning_rate=5e-4, head_steps=20, **SMALL_HEADS
    )
    train, val_select = (arena.image_set(rows) for rows in (arena.folds[0].train, arena.folds[0].val_select))
    judge = feature_judge(settings.judge, train, val_select)
    with meter.running():
        adapt_domain(net, train.images, settings, seed=seed, progress=lambda *_: None, judge=judge)
    _save(net.backbone, backbone(place, "b", seed))
    _keep_states(place, "b", "doran", seed, meter, adapted=seed)


def _save(model: torch.nn.Module, directory: Path) -> None:
    model.save_pretrained(directory)  # type: ignore[operator]
