"""Errors of the offline pipeline.

OfflineError
├── DatasetError           labels or images that cannot be used
├── PipelineError          a run cannot start or go on
│   └── PipelineBusy       another run holds the workspace
└── TrainingError          training diverged or cannot start
"""

from __future__ import annotations


class OfflineError(Exception):
    """Root of the errors of `offline`."""


class DatasetError(OfflineError):
    """Labels or images that cannot be used."""


class PipelineError(OfflineError):
    """A run cannot start or go on."""


class PipelineBusy(PipelineError):
    """Another run holds the workspace."""


class TrainingError(OfflineError):
    """Training diverged or cannot start."""
