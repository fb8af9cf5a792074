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
        picked: also keep what Stage-1 deferred, what is audited, and where the stages disagree; such images may only
            train.
        drift_share: while scores drift, share of the images on the side to which they do that is kept as well; only
            with `picked`.
        max_mib: of all pictures together.
        max_pictures: number of them; of as many that were removed it is known that they were there.
        per_place: pictures of one place that are kept because they were picked.
        random_per_place: random draws of one place and one week that are kept, themselves a random part of all.
    """

    enabled: bool = False
    random_share: float = Field(default=0.01, ge=0, le=1)
    picked: bool = True
    drift_share: float = Field(default=0.1, ge=0, le=1)
    max_mib: int = Field(default=2048, ge=1)
    max_pictures: int = Field(default=20_000, ge=1, le=1_000_000)
    per_place: int = Field(default=3, ge=1)
    random_per_place: int = Field(default=30, ge=1)
