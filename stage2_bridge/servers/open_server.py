"""Opens the Stage-2 server that the settings name; one file beside this for each kind."""

from __future__ import annotations

from stage2_bridge.client import Stage2Client
from stage2_bridge.servers.local_engine import LocalEngineClient
from stage2_bridge.settings import Stage2Settings


def open_server(settings: Stage2Settings) -> Stage2Client | None:
    """The client of a Stage-2 server, None if the settings name none.

    Raises:
        engines.errors.BundleRefused: the engine in this process cannot be loaded.
        stage1.errors.ArtifactError: a file of it is missing or damaged.
    """
    return None if settings.engine is None else LocalEngineClient(settings.engine, threads=settings.threads)
