"""Opens the Stage-2 servers that the settings name; one file beside this for each protocol."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping

from stage1.errors import SettingsError
from stage2_bridge.client import Stage2Client
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.servers.local_engine import LocalEngineClient
from stage2_bridge.servers.preferred import Checked, Member, PreferredServers
from stage2_bridge.servers.refusal_watch import RefusalWatch
from stage2_bridge.settings import (
    DetectorServer,
    EngineServer,
    KserveServer,
    OpenAiServer,
    Server,
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
    return PreferredServers(
        [Member(_watched(one, clock), Breaker(clock), _most(one, settings)) for one in settings.all_servers], clock
    )


def _watched(server: Server, clock: Callable[[], float]) -> Checked:
    client = client_of(server)
    return client if isinstance(server, EngineServer) else RefusalWatch(client, clock)


def _most(server: Server, settings: Stage2Settings) -> int:
    """Images at a time."""
    if isinstance(server, EngineServer):
        return settings.max_in_flight
    return server.connections * (server.max_batch if isinstance(server, KserveServer | DetectorServer) else 1)


def client_of(settings: Server) -> Checked:
    """The client of one server; see `open_server`."""
    if isinstance(settings, EngineServer):
        return LocalEngineClient(settings.directory, threads=settings.threads, name=settings.name)
    # Who computes in this process needs no HTTP client.
    from engines.remote.http import client  # noqa: PLC0415

    key = key_of(settings, os.environ)
    twice = isinstance(settings, OpenAiServer) and settings.both_orders
    http = client(
        connections=settings.connections * (2 if twice else 1),
        headers={} if key is None else {"authorization": f"Bearer {key}"},
        authorities=authorities_of(settings),
    )
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
            # A key that was written where its name belongs is not told either.
            told = settings.key_env if settings.key_env.isupper() else "that key_env names"
            raise SettingsError(f"{where}: the variable {told} is not set; it holds the key of the server")
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


def authorities_of(settings: KserveServer | DetectorServer | OpenAiServer) -> ssl.SSLContext | None:
    """Who may vouch for the server; None for the public authorities.

    Raises:
        SettingsError: the file that the settings name has no certificate.
    """
    if settings.ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"stage2 server {settings.name}: ca_file {settings.ca_file} cannot be read as certificates in PEM"
        ) from error
