"""The servers that compute Stage-1, asked once: do they compute the current bundle as its engine does?"""

from __future__ import annotations

import contextlib
from pathlib import Path

from engines.engine import ServerStatus
from engines.errors import EngineError
from engines.live.load.load_bundle import check_bundle
from engines.store.file_names import ENGINE
from engines.store.store import Store
from miner.answering.settings import EngineSettings
from miner.cli.doctor.diagnosis import Verdict
from miner.settings import MinerSettings
from stage1.errors import Stage1Error


def stage1_servers(settings: MinerSettings) -> list[tuple[Verdict, str]]:
    """What there is to say of each server; nothing where this machine computes."""
    if not settings.engine.remote:
        return []
    store = Store(settings.store)
    try:
        pointer = store.current()
        found = () if pointer is None else checked_servers(settings.engine, store.path(pointer.bundle))
    except (EngineError, Stage1Error) as error:
        return [("error", str(error))]
    alone = settings.engine.servers.last_resort == "never" and not any(one.state == "up" for one in found)
    return [
        ("ok", f"{one.url}: computes the bundle as its engine does{f', by {one.platform}' if one.platform else ''}")
        if one.state == "up"
        else ("error" if alone else "warning", f"{one.url}: {one.state}: {one.reason}")
        for one in found
    ]


def checked_servers(settings: EngineSettings, bundle: Path) -> tuple[ServerStatus, ...]:
    """How each server of the settings stands, after the golden images went through it at every size of batch.

    Args:
        settings: name the servers.
        bundle: directory of the bundle.

    Raises:
        BundleRefused: the bundle itself is damaged.
    """
    # It brings the HTTP client, which who computes here does without.
    from engines.live.remote.opener import RemoteEngines  # noqa: PLC0415

    checked = check_bundle(bundle)
    # Only asked: nothing is put into a repository, and nothing loaded here.
    asked = settings.servers.model_copy(update={"last_resort": "never", "repository": None})
    opener = RemoteEngines(settings.remote, asked, most=settings.batch.max_batch)
    try:
        engine = opener.open(checked.spec, bundle / ENGINE)
        with contextlib.suppress(EngineError):
            engine.warm_up(settings.batch.max_batch)
        return engine.servers
    finally:
        opener.close()
