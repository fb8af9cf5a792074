"""Whether Stage-2 servers would answer: ready, of the right model, and with a probability of one image."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from engines.errors import EngineError
from stage1.errors import CascadeError
from stage2_bridge.client import Stage2Error, TwoOrders
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.settings import EngineServer, PythonServer, Server, Stage2Settings


@dataclass(frozen=True)
class Inspection:
    """What was found of one server.

    Attributes:
        name: of the server.
        kind: of it.
        told: what it says of itself, or what is wrong.
        failed: whether something is.
        probability: of roadwork in the image; None if it gave none.
        seconds: that it took for it.
        turned: the same with the answers that its question names the other way round; None if it names none.
    """

    name: str
    kind: str
    told: str
    failed: bool
    probability: float | None = None
    seconds: float | None = None
    turned: float | None = None

    @property
    def in_words(self) -> str:
        """What was found, in one line."""
        if self.probability is None or self.seconds is None:
            return self.told
        told = f"{self.told}; {self.probability:.3f} for the image, in {self.seconds * 1e3:.0f} ms"
        if self.turned is None:
            return told
        gap = abs(self.turned - self.probability)
        return f"{told}; {self.turned:.3f} if asked for no or yes, a gap of {gap:.3f}"


async def inspected(settings: Stage2Settings, content: bytes, timeout_s: float) -> list[Inspection]:
    """Look at every server, all at once, in the order of the settings.

    Args:
        settings: of the servers.
        content: an encoded image that each is asked about.
        timeout_s: for each, for everything that is asked of it.
    """
    return list(await asyncio.gather(*(_inspected(one, content, timeout_s) for one in settings.all_servers)))


async def _inspected(settings: Server, content: bytes, timeout_s: float) -> Inspection:
    try:
        client = client_of(settings)
    except CascadeError as error:
        return Inspection(settings.name, settings.kind, str(error), failed=True)
    try:
        async with asyncio.timeout(timeout_s):
            told = await client.check(timeout_s) + _of_its_key(settings)
            began = time.perf_counter()
            probability = await client.ask(content, timeout_s)
            seconds = time.perf_counter() - began
            both = await client.ask_in_both_orders(content, timeout_s) if isinstance(client, TwoOrders) else None
    except TimeoutError:
        return Inspection(settings.name, settings.kind, f"not answered within {timeout_s:g} s", failed=True)
    except (EngineError, Stage2Error) as error:
        return Inspection(settings.name, settings.kind, str(error), failed=True)
    finally:
        await client.close()
    found = Inspection(settings.name, settings.kind, told, failed=False, probability=probability, seconds=seconds)
    return found if both is None else replace(found, probability=both[0], turned=both[1])


def _of_its_key(settings: Server) -> str:
    """A warning where a key goes over a network that anybody on it can read."""
    if isinstance(settings, EngineServer | PythonServer) or not (settings.key_env or settings.key_file):
        return ""
    parts = urlsplit(settings.url)
    here = parts.hostname == "localhost" or (parts.hostname or "").startswith("127.") or parts.hostname == "::1"
    return "" if here or parts.scheme == "https" else "; its key goes over the network unencrypted: use https"
