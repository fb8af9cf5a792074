"""A Stage-2 of the operator's own: a class in a Python file that this process runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, TypeVar

from stage1.artifacts import sha256_file
from stage1.errors import CascadeError, SettingsError
from stage2_bridge.client import ServerIdentity, Stage2Client, Stage2Error
from stage2_bridge.sample_image import black_image
from stage2_bridge.settings import PythonServer

Found = TypeVar("Found")


class OwnFileClient:
    """Asks a client that a file of the operator's makes, and turns whatever it raises into an error of Stage-2.

    Args:
        settings: of the server.

    Raises:
        SettingsError: the file cannot be run, or has no such class, or that cannot be made with these options.
    """

    def __init__(self, settings: PythonServer) -> None:
        self._settings = settings
        self._sha256, self._client = _made(settings)

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return self._settings.name

    async def ask(self, content: bytes, timeout_s: float) -> float:
        """See `Stage2Client.ask`."""
        return await _told(lambda: self._client.ask(content, timeout_s))

    async def check(self, timeout_s: float) -> str:
        """See `Checked.check`: what the client itself says where it has a `check`, otherwise whether it answers."""
        if (check := getattr(self._client, "check", None)) is not None:
            return str(await _told(lambda: check(timeout_s)))
        await self.ask(black_image(), timeout_s)
        return f"{self._settings.factory} of {self._settings.file}"

    async def identity(self, timeout_s: float) -> ServerIdentity:
        """See `Checked.identity`: the client's own where it has one, otherwise the bytes of the file."""
        if (identity := getattr(self._client, "identity", None)) is not None:
            found = await _told(lambda: identity(timeout_s))
            if not isinstance(found, ServerIdentity):
                raise Stage2Error(f"its identity is {found!r}, and no ServerIdentity")
            return found
        settings = self._settings
        return ServerIdentity.made(settings.kind, self.name, settings.factory, self._sha256, options=settings.options)

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await _told(self._client.close)


async def _told(work: Callable[[], Awaitable[Found]]) -> Found:
    try:
        return await work()
    except (CascadeError, TimeoutError, asyncio.CancelledError):
        raise
    except Exception as error:  # the edge to foreign code
        raise Stage2Error(f"{type(error).__name__}: {error}") from error


def _made(settings: PythonServer) -> tuple[str, Stage2Client]:
    """The hash of the file, and the client that it makes."""
    where = f"stage2 server {settings.name}: {settings.file}"
    name = f"stage2_server_{settings.name}"
    spec = spec_from_file_location(name, settings.file)
    if spec is None or spec.loader is None or not settings.file.is_file():
        raise SettingsError(f"{where} is no Python file")
    module = module_from_spec(spec)
    # Where its dataclasses look for the module that they are in.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        factory: Any = getattr(module, settings.factory, None)
        if factory is None:
            raise SettingsError(f"{where} has no {settings.factory}")
        client = factory(**settings.options)
    except CascadeError:
        raise
    except Exception as error:  # the edge to foreign code
        raise SettingsError(f"{where}: {type(error).__name__}: {error}") from error
    missing = [one for one in ("ask", "close") if not callable(getattr(client, one, None))]
    if missing:
        raise SettingsError(f"{where}: {settings.factory} has no {missing[0]}, see examples/custom_stage2.py")
    return sha256_file(settings.file), client
