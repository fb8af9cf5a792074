"""Telling a server to load a model from its repository anew: Triton in explicit mode, MLServer.

Reference:
    Triton Inference Server, `extension_model_repository.md`.
"""

from __future__ import annotations

from urllib.parse import quote

from engines.remote import http as remote


async def load_model(client: remote.Client, url: str, model: str, timeout_s: float) -> None:
    """Have a server bring up what its repository has of a model; returns when it is done.

    Versions that have come since are loaded, versions that have gone are unloaded, and the others serve on.

    Args:
        client: sends the request.
        url: of the server, without a path.
        model: its name there.
        timeout_s: for the whole call; a large model takes minutes.

    Raises:
        RemoteError: it could not, and serves what it served; or there is no reply.
    """
    place = f"{url}/v2/repository/models/{quote(model, safe='')}/load"
    headers = {"content-type": "application/json"}
    await remote.ask(client, "POST", place, timeout_s=timeout_s, content=b"{}", headers=headers)
