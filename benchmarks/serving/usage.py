"""What a process uses, as Linux counts it."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


class CpuClock:
    """CPU time of one process, its ended threads included and its children not, to the nanosecond.

    `/proc/PID/stat` counts in hundredths of a second, which is as much as thirty requests take.
    """

    def __init__(self, pid: int) -> None:
        clock = ctypes.c_int()
        failed = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
        if failed:
            raise OSError(failed, os.strerror(failed), f"process {pid}")
        self._clock = clock.value

    def seconds(self) -> float:
        return time.clock_gettime(self._clock)


@dataclass(frozen=True)
class Usage:
    """Of one process at one time.

    Attributes:
        rss: resident memory, bytes.
        peak_rss: the most it ever was.
        threads: of the process.
        descriptors: open files, sockets among them.
    """

    rss: int
    peak_rss: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        kib = {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(kib["VmRSS"], kib["VmHWM"], int(fields["Threads"]), descriptors)
