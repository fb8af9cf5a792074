"""Settings of the evaluation on the test rows."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section


class EvalSettings(Section):
    """How much is evaluated (`eval_selective`).

    Attributes:
        cell_rows: test rows that are sent in each way in which validators sent pictures, at most; ten times as many
            images go through the engine. 0 for none.
    """

    cell_rows: int = Field(default=300, ge=0)
