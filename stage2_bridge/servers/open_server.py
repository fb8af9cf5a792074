"""Opens the Stage-2 servers that the settings name; one file beside this for each protocol."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping

from engines.store.file_names import CALIBRATOR, ENGINE, PREPROCESS
from stage1.errors import SettingsError
from stage2_bridge.client import Stage2Client
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.byte_rate import ByteRate
from stage2_bridge.servers.local_engine import LocalEngineClient
from stage2_bridge.servers.member import Checked, Member, reserved
from stage2_bridge.servers.own_file import OwnFileClient
from stage2_bridge.servers.preferred import PreferredServers
from stage2_bridge.servers.refusal_watch import RefusalWatch
from stage2_bridge.settings import (
    DetectorServer,
    EngineServer,
    KserveServer,
    OpenAiServer,
    PythonServer,
    Server,
    Stage2Settings,
)

# Of a classifier or detector at the start: two images alone, and both in one call.
CHECK_CALLS = 3


def open_server(
    settings: Stage2Settings, clock: Callable[[], float] = time.monotonic, budget: Budget | None = None
) -> Stage2Client | None:
    """The client of the Stage-2 servers, None if none is to be asked. Sends nothing to any of them yet.

    Args:
        settings: of the servers.
        clock: monotonic time in seconds.
        budget: pays for calls; see `miner.answering.handoff`.

    Raises:
        engines.errors.BundleRefused: the engine in this process cannot be loaded.
        stage1.errors.ArtifactError: a file of it is missing or damaged.
        SettingsError: a key or a prompt cannot be read.
    """
    return servers_of(settings, clock, budget) if settings.is_asked else None


def servers_of(
    settings: Stage2Settings,
    clock: Callable[[], float] = time.monotonic,
    budget: Budget | None = None,
    before: PreferredServers | None = None,
) -> PreferredServers:
    """All servers of the settings, as one client; see `open_server`.

    Args:
        settings: of the servers.
        clock: monotonic time in seconds.
        budget: pays for calls.
        before: the servers that these take the place of. One of the same settings keeps its standing, and an engine of
            the same files stays loaded.
    """
    old = {} if before is None else {member.client.name: member for member in before.members}
    most_bytes = settings.max_image_bytes_a_second
    rate = None if most_bytes is None else ByteRate(most_bytes, clock)
    members = []
    for one in settings.all_servers:
        made_from = made_of(one)
        same = old.get(one.name)
        if same is not None and same.made_from != made_from:
            same = None
        # A client over HTTP reads its key again.
        kept = same.client if same is not None and isinstance(one, EngineServer) else None
        cost = None if settings.budget is None else one.cost(settings.budget.unit)
        member = Member(
            kept or _watched(one, clock, budget, cost),
            same.breaker if same is not None else Breaker(clock),
            settings.calls_at_a_time(one),
            equal=one.equal,
            cost=cost,
            check_calls=0 if isinstance(one, EngineServer) else 1 if isinstance(one, OpenAiServer) else CHECK_CALLS,
            rate=None if isinstance(one, EngineServer) else rate,
            made_from=made_from,
        )
        members.append(member)
    return PreferredServers(
        members, clock, budget=budget, hedge=settings.hedge, probe_s=settings.probe_s, before=before
    )


def made_of(server: Server) -> object:
    """What a client is made from: the settings, and what tells the files that they name from later ones."""
    if isinstance(server, EngineServer):
        files = [server.directory / name for name in (ENGINE, PREPROCESS, CALIBRATOR)]
    else:
        named = (getattr(server, name, None) for name in ("key_file", "ca_file", "prompt_file", "file"))
        files = [one for one in named if one is not None]
    stats = (file.stat() if file.exists() else None for file in files)
    return server, tuple(None if one is None else (one.st_ino, one.st_size, one.st_mtime_ns) for one in stats)


def _watched(server: Server, clock: Callable[[], float], budget: Budget | None, cost: Cost | None) -> Checked:
    client = client_of(server)
    if isinstance(server, EngineServer):
        return client
    if budget is None or cost is None:
        return RefusalWatch(client, clock)

    async def is_paid() -> bool:
        return await reserved(budget, cost, 1)

    return RefusalWatch(client, clock, is_paid=is_paid)


def client_of(settings: Server) -> Checked:
    """The client of one server; see `open_server`."""
    if isinstance(settings, EngineServer):
        return LocalEngineClient(settings.directory, threads=settings.threads, name=settings.name)
    if isinstance(settings, PythonServer):
        return OwnFileClient(settings)
    # Who computes in this process needs no HTTP client.
    from engines.remote.http import Client  # noqa: PLC0415

    key = key_of(settings, os.environ)
    http = Client(
        connections=settings.connections * settings.calls_an_image,
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
