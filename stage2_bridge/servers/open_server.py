"""Opens the Stage-2 servers that the settings name; one file beside this for each protocol."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from stage1.errors import SettingsError
from stage2_bridge.client import Stage2Client
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.servers.local_engine import LocalEngineClient
from stage2_bridge.servers.preferred import Checked, Member, PreferredServers
from stage2_bridge.settings import (
    DetectorServer,
    EngineServer,
    KserveServer,
    OpenAiServer,
    Stage2Settings,
)


def open_server(settings: Stage2Settings, clock: Callable[[], float] = time.monotonic) -> Stage2Client | None:
    """The client of the Stage-2 servers, None if the settings name none. Sends nothing to any of them yet.

    Args:
        settings: of the servers.
        clock: monotonic time in seconds.

    Raises:
        engines.errors.BundleRefused: the engine in this process cannot be loaded.
        stage1.errors.ArtifactError: a file of it is missing or damaged.
        SettingsError: a key or a prompt cannot be read.
    """
    return servers_of(settings, clock) if settings.all_servers else None


def servers_of(settings: Stage2Settings, clock: Callable[[], float] = time.monotonic) -> PreferredServers:
    """All servers of the settings, as one client; see `open_server`."""
    members = []
    for one in settings.all_servers:
        most = settings.max_in_flight if isinstance(one, EngineServer) else one.connections
        members.append(Member(client_of(one), Breaker(clock), most))
    return PreferredServers(members, clock)


def client_of(settings: EngineServer | KserveServer | DetectorServer | OpenAiServer) -> Checked:
    """The client of one server; see `open_server`."""
    if isinstance(settings, EngineServer):
        return LocalEngineClient(settings.directory, threads=settings.threads, name=settings.name)
    # Who computes in this process needs no HTTP client.
    from engines.remote.http import client  # noqa: PLC0415

    key = key_of(settings, os.environ)
    http = client(connections=settings.connections, headers={} if key is None else {"authorization": f"Bearer {key}"})
    if isinstance(settings, OpenAiServer):
        from stage2_bridge.servers.chat import ChatClient  # noqa: PLC0415

        return ChatClient(http, settings)
    from stage2_bridge.servers.inference import InferenceClient  # noqa: PLC0415

    return InferenceClient(http, settings)


def key_of(settings: KserveServer | DetectorServer | OpenAiServer, environment: Mapping[str, str]) -> str | None:
    """The key of a server, None if it needs none. It is in no log and in no error.

    Raises:
        SettingsError: the settings name a key that is not there.
    """
    where = f"stage2 server {settings.name}"
    if settings.key_env is not None:
        key = environment.get(settings.key_env, "").strip()
        if not key:
            raise SettingsError(f"{where}: the variable {settings.key_env} is not set, and key_env names it")
    elif settings.key_file is not None:
        try:
            key = settings.key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{where}: key_file {settings.key_file} cannot be read") from error
        if not key:
            raise SettingsError(f"{where}: key_file {settings.key_file} is empty")
    else:
        return None
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{where}: the key has characters that no header can carry")
    return key
