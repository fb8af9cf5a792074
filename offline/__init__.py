"""The nightly pipeline, from labelled images to a certified bundle."""

from typing import TYPE_CHECKING

from stage1.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from offline.config import PRESETS, RunConfig, load_config
    from offline.data.dataset import Dataset, Row
    from offline.data.sources.source import DataSource, read_dataset
    from offline.errors import OfflineError
    from offline.night import NightOutcome, recompile, run_night
    from offline.pipeline.progress import Progress
    from offline.stages import STAGE_NAMES

__all__ = [
    "PRESETS",
    "STAGE_NAMES",
    "DataSource",
    "Dataset",
    "NightOutcome",
    "OfflineError",
    "Progress",
    "Row",
    "RunConfig",
    "load_config",
    "read_dataset",
    "recompile",
    "run_night",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "DataSource": "offline.data.sources.source",
            "Dataset": "offline.data.dataset",
            "NightOutcome": "offline.night",
            "OfflineError": "offline.errors",
            "Progress": "offline.pipeline.progress",
            "Row": "offline.data.dataset",
            "PRESETS": "offline.config",
            "RunConfig": "offline.config",
            "STAGE_NAMES": "offline.stages",
            "load_config": "offline.config",
            "read_dataset": "offline.data.sources.source",
            "recompile": "offline.night",
            "run_night": "offline.night",
        },
    )
