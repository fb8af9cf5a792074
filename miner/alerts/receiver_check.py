"""Whether a receiver of alerts can be reached by TLS, before the first alarm is lost on it; nothing is sent."""

from __future__ import annotations

import asyncio
import ssl
from urllib.parse import urlsplit

from engines.remote.tls import tls_fault

HANDSHAKE_S = 10.0


async def receiver_fault(url: str, trusted: ssl.SSLContext, timeout_s: float = HANDSHAKE_S) -> str | None:
    """Why no message will ever arrive there; None where nothing is wrong, and where it is only away at this moment.

    Args:
        url: a secret, which is not told.
        trusted: who may vouch for it, as for the messages.
        timeout_s: the longest wait.
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=trusted)
    except (OSError, ssl.SSLError) as error:
        return tls_fault(error)
    except UnicodeError:
        return "its host is no name that can be looked up"
    writer.transport.abort()
    return None
