"""Settings of the gate."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section


class GateSettings(Section):
    """When a challenger may replace the champion.

    Attributes:
        coverage_margin: largest loss of exit coverage on the test rows that is accepted.
        accuracy_margin: largest loss of Stage-1 accuracy on the test rows that is accepted.
        keep: bundles that stay in the store; older ones are removed, but for the current one and the one before it.
    """

    coverage_margin: float = Field(default=0.05, ge=0, le=1)
    accuracy_margin: float = Field(default=0.03, ge=0, le=1)
    keep: int = Field(default=14, ge=2)
