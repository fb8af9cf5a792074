"""The processes of a night: known again after a crash, and ended with everything that they started.

Every process of a night has a token in its environment, which what it starts inherits, also in a session of its own. A
process id alone says nothing: after a while a stranger may have it. So a process is ended only if it carries the token
at the moment of the signal, which is sent to that very process and not to a number (`pidfd_open`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from engines.machine.background_tasks import begun_in_thread
from engines.machine.clock import boot_id

VARIABLE = "NIGHT_TOKEN"
PROC = Path("/proc")
POLL_S = 0.05


class ProcessMark(BaseModel):
    """Which process it was: an id that may be used again, and what tells the two apart.

    Attributes:
        pid: process id.
        started_ticks: clock ticks from the start of the machine to that of the process; 0 where the system does not
            tell.
        boot: id of the start of the machine; empty where the system does not tell.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    started_ticks: int
    boot: str


def new_token() -> str:
    """A token that no other night has."""
    return secrets.token_hex(16)


def mark_of(pid: int) -> ProcessMark:
    """The mark of a process that runs."""
    return ProcessMark(pid=pid, started_ticks=_started_ticks(pid) or 0, boot=boot_id())


def runs(mark: ProcessMark) -> bool:
    """Whether that very process runs still, and not another one with its id."""
    return bool(mark.started_ticks) and mark.boot == boot_id() and _started_ticks(mark.pid) == mark.started_ticks


def processes_of(token: str) -> list[int]:
    """Ids of the processes of this user that carry a token; none where the system does not tell."""
    entries = PROC.iterdir() if PROC.is_dir() else ()
    others = (int(entry.name) for entry in entries if entry.name.isdigit() and int(entry.name) != os.getpid())
    return [pid for pid in others if _carries(pid, token)]


async def end_processes(token: str, grace_s: float) -> int:
    """End all processes that carry a token: TERM, and KILL for those that are left after a while.

    Args:
        token: theirs.
        grace_s: seconds that they have after TERM, and again after KILL.

    Returns:
        How many there were.
    """
    # In a thread: a process that waits for a disk can hold up whoever reads its environment.
    first = await begun_in_thread(lambda: processes_of(token), "processes")
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline, told = time.monotonic() + grace_s, set[int]()
        while left := await begun_in_thread(lambda: processes_of(token), "processes"):
            # One that was started after the signal gets it too.
            for pid in set(left) - told:
                _signal(pid, token, sign)
            told |= set(left)
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(POLL_S)
    return len(first)


def _signal(pid: int, token: str, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError), _held(pid) as process:
        # Looked at again: from here on the descriptor means this process alone.
        if _carries(pid, token):
            signal.pidfd_send_signal(process, sign)


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _carries(pid: int, token: str) -> bool:
    # What has ended, and what belongs to others, cannot be read.
    with contextlib.suppress(OSError):
        return f"{VARIABLE}={token}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _started_ticks(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the program, in brackets, may hold anything.
        fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[19]) if fields[0] not in {"Z", "X"} else None
    return None
