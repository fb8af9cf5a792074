"""Settings of the data."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section


class PreflightSettings(Section):
    """How bad data may be before a run stops; what happens with the rest is in `offline.data.checks.preflight`.

    Attributes:
        smallest_side_px: an image with a shorter side than this is no picture of a street.
        most_left_out: largest share of rows that may be left out; more stop the run.
        most_copies: largest share of rows whose file is a copy of the file of another row; more stop the run.
    """

    smallest_side_px: int = Field(default=32, ge=1)
    most_left_out: float = Field(default=0.05, ge=0, le=1)
    most_copies: float = Field(default=0.5, ge=0, le=1)
