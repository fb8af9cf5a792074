"""Settings of the gate, and of what lies beside a bundle."""

from __future__ import annotations

from pydantic import Field

from engines.store.model_card import DESCRIPTION, NAME, SS58
from stage1.settings import Section


class GateSettings(Section):
    """When a challenger may replace the champion.

    Attributes:
        coverage_margin: largest loss of exit coverage on the test rows that is accepted.
        accuracy_margin: largest loss of Stage-1 accuracy on the test rows that is accepted.
        subgroup_margin: largest loss of Stage-1 accuracy in a subgroup of the test rows that is accepted.
        confidence: with which a loss beyond a margin must be ruled out.
        least_mcc: Matthews correlation of Stage-1 alone on the test rows below which a bundle is refused; 0 is chance.
        latency_ms: longest median time of one image on this machine; None for any.
        memory_mib: largest graph with its weights; None for any.
        accept_weaker_claim: a certificate that promises less than the champion's, or something else, may
            replace it; in mode `coverage` a higher certified bound is less.
        memory_days: the best bundle that was live within so many days is compared with too.
        repetitions: replicates of the bootstrap.
        keep: runs and bundles that stay; older ones are removed, but for those that bundles in use were made by.
    """

    coverage_margin: float = Field(default=0.05, ge=0, le=1)
    accuracy_margin: float = Field(default=0.03, ge=0, le=1)
    subgroup_margin: float = Field(default=0.10, ge=0, le=1)
    confidence: float = Field(default=0.90, ge=0.5, lt=1)
    least_mcc: float = Field(default=0.0, ge=-1, le=1)
    latency_ms: float | None = Field(default=None, gt=0)
    memory_mib: float | None = Field(default=None, gt=0)
    accept_weaker_claim: bool = False
    memory_days: float = Field(default=90.0, ge=0)
    repetitions: int = Field(default=1000, ge=100)
    keep: int = Field(default=14, ge=2)


class ModelCardSettings(Section):
    """What `model_card.json` says of a bundle that a night publishes.

    Attributes:
        name: what the model is called.
        description: what it does.
        submitted_by: ss58 address of the hotkey that will submit it; a miner names its own to its nights.
    """

    name: str = Field(default=NAME, min_length=1)
    description: str = DESCRIPTION
    submitted_by: str | None = Field(default=None, pattern=SS58)
