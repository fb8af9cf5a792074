"""What a chat completions server tells of itself beside its answers: its version, its weights, flags that move scores.

Each server program has paths of its own for it, and none has all of them; what a server does not tell is left out.

References:
    vLLM, `/version`, `/v1/models` and `/server_info`; SGLang, `/server_info`; llama.cpp, `/props`; Ollama,
    `/api/version` and `/api/tags`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from engines.errors import RemoteError
from engines.remote import http as remote

# Settings of a server that change what a model says of an image; others change how fast it does.
FLAGS = frozenset(
    {
        "logprobs_mode",
        "max_logprobs",
        "generation_config",
        "override_generation_config",
        "quantization",
        "dtype",
        "kv_cache_dtype",
        "revision",
        "model_path",
        "chat_template",
        "mm_processor_kwargs",
    }
)
MOST_BYTES = 2**22
# A text that is longer, such as a template, is told by its hash.
LONG = 200


@dataclass(frozen=True)
class ServerFacts:
    """What a server tells.

    Attributes:
        version: of the weights and of the program, in words; empty if it tells neither.
        flags: settings that move scores, by name.
    """

    version: str = ""
    flags: tuple[tuple[str, str], ...] = ()


async def facts_of(http: remote.Client, url: str, model: str, timeout_s: float) -> ServerFacts:
    """Ask a server for what it tells of itself.

    Args:
        http: sends the requests.
        url: of the server, without `/v1`.
        model: its name there.
        timeout_s: for all of them together.

    Raises:
        RemoteError: it does not answer, so that it cannot be known what it would tell.
    """
    paths = ("/v1/models", "/version", "/server_info?config_format=json", "/props", "/api/version", "/api/tags")
    told = dict(
        zip(paths, await asyncio.gather(*(_told(http, f"{url}{one}", timeout_s) for one in paths)), strict=True)
    )
    models, info, props, tags = told["/v1/models"], told[paths[2]], told["/props"], told["/api/tags"]
    weights = (
        _one_of(models.get("data"), "id", model, "root"),
        _one_of(tags.get("models"), "name", model, "digest")
        or _one_of(tags.get("models"), "name", f"{model}:latest", "digest"),
        props.get("model_path"),
    )
    programs = (
        told["/version"].get("version"),
        told["/api/version"].get("version"),
        info.get("version"),
        props.get("build_info"),
    )
    words = [str(one) for one in (*weights, *programs) if isinstance(one, str) and one and one != model]
    flags = sorted({**dict(_flags(info)), **dict(_flags({"chat_template": props.get("chat_template", "")}))}.items())
    return ServerFacts(" ".join(dict.fromkeys(words)), tuple(flags))


async def _told(http: remote.Client, url: str, timeout_s: float) -> dict[str, Any]:
    """The JSON object at an address; an empty one where the server has nothing there."""
    try:
        reply = await remote.ask(http, "GET", url, timeout_s=timeout_s, most_bytes=MOST_BYTES)
    except RemoteError as error:
        if error.status is None or error.status == 429 or error.status >= 502:
            raise
        return {}
    try:
        found = json.loads(reply.content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _one_of(items: object, key: str, name: str, wanted: str) -> str | None:
    """A value of the one of several objects that has this name."""
    for one in items if isinstance(items, list) else ():
        if isinstance(one, dict) and one.get(key) == name and isinstance(one.get(wanted), str):
            return str(one[wanted])
    return None


def _flags(found: object, depth: int = 6) -> Iterator[tuple[str, str]]:
    """Flags anywhere in what a server tells, each as text."""
    if not isinstance(found, dict) or not depth:
        return
    for name, value in found.items():
        if name in FLAGS and value not in (None, "", {}):
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
            yield name, text if len(text) <= LONG else sha256(text.encode()).hexdigest()
        else:
            yield from _flags(value, depth - 1)
