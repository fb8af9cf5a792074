"""Settings of the evaluation on the test rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stage1.settings import Section


class EvalSettings(Section):
    """How much is evaluated (`eval_selective`).

    Attributes:
        cell_rows: test rows that are sent in each way in which validators sent pictures, at most; ten times as many
            images go through the engine. 0 for none.
        cell_engine: what scores these: `fastest` is the fastest engine of this machine whose scores are those of the
            serving one, `serving` is that one. The test rows and everything certified are scored by the serving engine.
    """

    cell_rows: int = Field(default=300, ge=0)
    cell_engine: Literal["fastest", "serving"] = "fastest"
