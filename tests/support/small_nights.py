"""The config of a night on a random backbone of two blocks, which trains in a second."""

from __future__ import annotations

from offline.config import RunConfig, load_config


def small_night(**changes: object) -> RunConfig:
    """The smallest night; `changes` go over its settings, by their dotted names."""
    common: dict[str, object] = {
        "preprocess.size_px": 32,
        "model.backbone": {"kind": "random", "hidden": 32, "layers": 2},
        "model.last_layers": 1,
        "model.rank": 2,
        "train_supervised.epochs": 1,
        "train_supervised.cache_views": 1,
        "calibrate_scrc.stream": "originals",
    }
    return load_config("tiny", None, common | changes)
