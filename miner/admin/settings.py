"""Settings of the administrator's endpoint."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section


class AdminSettings(Section):
    """The administrator's endpoint.

    Attributes:
        port: TCP port on 127.0.0.1; 0 takes a free one; without it there is no endpoint.
    """

    port: int | None = Field(default=None, ge=0, le=65535)
