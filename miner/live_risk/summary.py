"""`live_risk.json`: how each certificate stands, or stood when it was last live."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from stage1.artifacts import Artifact
from stage1.errors import ArtifactError

SUMMARY = "live_risk.json"
MOST = 64


class Summary(Artifact):
    """The file.

    Attributes:
        written_at: UTC.
        live: id of the certificate that is live.
        certificates: the status of each by id, the latest last; at most 64.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    written_at: datetime | None = None
    live: str = ""
    certificates: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Self:
        """What is there; nothing where it cannot be read, for all of it is in the audits as well."""
        try:
            return cls.read(path)
        except ArtifactError:
            return cls()

    def with_status(self, status: dict[str, Any], now: datetime) -> Self:
        """The file after another look at a certificate."""
        name = status["certificate"]
        others = {key: value for key, value in self.certificates.items() if key != name}
        latest = dict([*others.items(), (name, status)][-MOST:])
        return self.model_copy(update={"written_at": now, "live": name, "certificates": latest})
