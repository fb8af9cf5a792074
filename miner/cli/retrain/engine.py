"""The engine of a night whose settings leave it to what was measured."""

from __future__ import annotations

from pathlib import Path

from engines.backends.registry import AUTO
from engines.live.load.engine_choice import recorded
from engines.spec import REFERENCE
from offline.config import RunConfig


def with_recorded_engine(config: RunConfig, store: Path) -> RunConfig:
    """The same settings with the engine that `auto` stands for; the reference where nobody measured this machine.

    The settings of a bundle name the engine itself, so that a later measurement changes no bundle.

    Args:
        config: of the night.
        store: directory of bundles, where measurements are kept.
    """
    if config.engine.backend != AUTO:
        return config
    return config.model_copy(update={"engine": recorded(store) or REFERENCE})
