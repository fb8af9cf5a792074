"""Bounds that a process puts on itself before it does work that the live miner must not feel.

Memory is bounded by `RLIMIT_DATA`: what a process may write of its own, and not what it maps of files. `RLIMIT_AS`
would count files that are mapped and what CUDA only reserves, some hundred GB. A control group would count all
processes together; it needs a delegated hierarchy, which a container does not have, so that is the business of a
service manager.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from engines.machine.memory import CGROUP, MEMINFO

PR_SET_PDEATHSIG = 1
# System calls without a function in the C library.
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_SHIFT = 1, 3, 13
FIRST_TO_GO = 1000
OOM_SCORE = Path("/proc/self/oom_score_adj")


def end_with_parent(parent: int | None = None) -> None:
    """Have this process, a child, killed when the thread that began it ends: nobody waits for its answer then.

    Does nothing where the system cannot.

    Args:
        parent: process id of who began it; if that has ended already, this process ends at once.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def first_to_go() -> bool:
    """Have the kernel end this process, and those that it starts, before any other when memory runs out.

    Returns:
        Whether the system could.
    """
    try:
        OOM_SCORE.write_text(str(FIRST_TO_GO))
    except OSError:
        return False
    return True


def idle_io() -> bool:
    """Let this process, and those that it starts, use a disk only while no other wants it.

    Returns:
        Whether the system could; it has an effect under the disk schedulers that know classes (BFQ, mq-deadline).
    """
    number = IOPRIO_SET.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    return int(call(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT)) == 0


def limit_memory(most: int) -> None:
    """Let this process, and each that it starts, write at most so much memory of its own; more is a `MemoryError`.

    Args:
        most: bytes.
    """
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def whole_memory(read: Callable[[Path], str] = Path.read_text) -> int | None:
    """Memory of this machine, or of the control group that this process is in, whichever is less.

    Args:
        read: reads a file of the kernel.

    Returns:
        Bytes, None where the kernel does not tell.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in read(MEMINFO).splitlines() if line.startswith("MemTotal:"))
        found.append(int(line.split()[1]) * 1024)
    # Where there is no limit the file says "max".
    with contextlib.suppress(OSError, ValueError):
        found.append(int(read(CGROUP / "memory.max")))
    return min(found, default=None)
