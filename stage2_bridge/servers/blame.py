"""Whose fault a failed attempt is: the server's, the image's, or that of a caller who had hardly any time."""

from __future__ import annotations

import asyncio

from engines.errors import RemoteError
from stage2_bridge.client import REFUSED, ImageRefused, Stage2Error, TooSlow

# Of the time that an attempt was given: who is given up after it was too slow, and before it was not waited for.
LATE_SHARE = 0.9
# Callers choose their own deadlines. Who has no answer after less says nothing of the server.
FAIR_S = 1.0
# What a server says that fails on one image, and one that fails on all. It is the image if another was answered so
# short a time ago.
FAILS, ANSWERS_S = 500, 5.0


def blames_server(error: BaseException, *, given_s: float, took_s: float, since_s: float) -> bool | None:
    """Whether a failed attempt is one of the server; None where it says nothing of it.

    Args:
        error: how it ended.
        given_s: time that it was given.
        took_s: time that it took.
        since_s: time since the server last answered.
    """
    if isinstance(error, asyncio.CancelledError):
        return True if took_s >= LATE_SHARE * given_s and given_s >= FAIR_S else None
    if isinstance(error, ImageRefused):
        return None
    if not isinstance(error, RemoteError):
        return True
    the_image = error.status in REFUSED or (error.status == FAILS and since_s < ANSWERS_S)
    return None if the_image or error.stale or (error.timed_out and given_s < FAIR_S) else True


def was_not_sent(error: BaseException) -> bool:
    """Whether there was not even a connection."""
    if not isinstance(error, RemoteError) or error.status is not None or error.stale:
        return False
    return error.passing or error.lasting


def failure(server: str, error: BaseException) -> BaseException:
    """What a failure of one server is to the bridge; what is none of the server's stays as it is.

    Args:
        server: its name.
        error: what was raised.
    """
    if not isinstance(error, RemoteError):
        return error
    told = f"{server}: {error}"
    if error.timed_out:
        return TooSlow(told)
    return ImageRefused(told) if error.status in REFUSED else Stage2Error(told)
