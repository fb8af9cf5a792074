"""What a miner needs to start, checked in one place by the miner and by `cascade doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from filelock import FileLock, Timeout

from miner.chain.settings import AUTO, ChainSettings
from miner.errors import StartError, StateInUse

LOCK = ".miner.lock"
# `cascade doctor` has it for a moment.
LOCK_WAIT_S = 2.0


@contextmanager
def held_state(state: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Keep a state directory to this process: two journals in one file would tear each other's lines.

    Args:
        state: the directory; created if it is not there.
        wait_s: how long another process may have it first.

    Raises:
        StateInUse: another process has it.
        StartError: it cannot be written.
    """
    lock = FileLock(state / LOCK, timeout=wait_s)
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StateInUse(f"{state}: another miner uses this directory; stop it, or set another `state`") from None
    except OSError as error:
        raise StartError(f"{state}: the state directory cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def published_ip(settings: ChainSettings) -> str | None:
    """The address to publish on the chain, or `auto`; None if nothing is to be published.

    Raises:
        StartError: one is to be published, and none is set.
    """
    if not settings.publish_endpoint:
        return None
    if settings.external_ip is None:
        raise StartError(
            "chain.external_ip is not set: validators would not find this miner. Set it to the address they reach, to "
            "auto if services on the internet may be asked for it, or set chain.publish_endpoint = false if "
            "the address is on the chain already"
        )
    return settings.external_ip


def out_of_reach(address: str) -> str | None:
    """Why validators may not reach a published address; None if nothing is known against it."""
    if address == AUTO or ip_address(address).is_global:
        return None
    return f"{address} is no public address: validators outside of this network cannot reach it"
