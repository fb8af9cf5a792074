"""Settings of the servers that compute Stage-1."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from engines.remote.address import checked_address
from engines.remote.bundle_version import MODEL
from stage1.settings import Section, UserPath

INSTEAD = "leave it out, and let only your own machines reach the server"
ServerUrl = Annotated[str, AfterValidator(partial(checked_address, instead=INSTEAD))]
# A request that a server lost is sent once more.
ATTEMPTS = 2


class RemoteSettings(Section):
    """How the servers of `engine.remote` are asked.

    Attributes:
        model: its name on every server; its version there is the bundle.
        connections: batches that are under way at each server at most.
        timeout_s: of one batch at one server; two of them must fit into the deadline of a request.
        look_s: so often a golden image is computed by each server that may answer, and one that may not is tried again.
        last_resort: whether the bundle's engine is loaded in this process where no server may answer: then (`lazy`),
            with the bundle already (`loaded`), or not at all (`never`).
        repository: directory of models that all servers read; a bundle is put there before it serves, and each server
            is told to load it. None where somebody else does that.
        load_s: how long a server may take to load a bundle.
        keep: versions that stay in the repository; other miners may be at an earlier one still.
    """

    model: str = Field(default=MODEL, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    connections: int = Field(default=2, ge=1, le=32)
    timeout_s: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    look_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    last_resort: Literal["lazy", "loaded", "never"] = "lazy"
    repository: UserPath | None = None
    load_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    keep: int = Field(default=3, ge=2)
