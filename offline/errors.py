"""Errors of the offline pipeline.

OfflineError
├── DatasetError           labels or images that cannot be used
│   └── MissingImage       an image that is listed is not there
├── PipelineError          a run cannot start or go on
│   ├── PipelineBusy       another run holds the workspace
│   └── DiskFull           the disk has no room for a night
├── GpuBusy                a GPU has less memory free than training may take
└── TrainingError          training diverged or cannot start
    └── TrainingInterrupted    training was told to end, and can go on
"""

from __future__ import annotations

from stage1.errors import CascadeError


class OfflineError(CascadeError):
    """Root of the errors of `offline`."""


class DatasetError(OfflineError):
    """Labels or images that cannot be used."""


class MissingImage(DatasetError):
    """An image that is listed is not in the data directory."""


class PipelineError(OfflineError):
    """A run cannot start or go on."""


class PipelineBusy(PipelineError):
    """Another run holds the workspace; when that has ended, this one can be tried again."""

    exit_status = 75


class GpuBusy(OfflineError):
    """A GPU has less memory free than training may take; it can be tried again."""

    exit_status = 75


class DiskFull(PipelineError):
    """The disk has no room for a night; nothing was begun."""


class TrainingError(OfflineError):
    """Training diverged or cannot start."""


class TrainingInterrupted(TrainingError):
    """Training was told to end; it goes on from its checkpoint when it is started again."""

    exit_status = 75
