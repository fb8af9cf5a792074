"""Settings of the harvest."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section


class HarvestSettings(Section):
    """Which images of requests are kept for labelling.

    Attributes:
        enabled: keep any. They are pictures of streets, with people and number plates.
        random_share: share of all images that is drawn whatever they show. Only these may ever choose, certify or
            report, and only if the whole week of them is labelled.
        picked: also keep what Stage-1 deferred, and where the stages disagree; such images may only train.
        max_mib: of all pictures together.
        per_place: pictures of one place that are kept because they were picked.
    """

    enabled: bool = False
    random_share: float = Field(default=0.01, ge=0, le=1)
    picked: bool = True
    max_mib: int = Field(default=2048, ge=1)
    per_place: int = Field(default=3, ge=1)
