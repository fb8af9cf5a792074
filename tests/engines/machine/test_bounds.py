"""Bounds that a process puts on itself: each is looked for where the kernel keeps it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engines.machine.bounds import whole_memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot")


def said_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@LINUX
def test_it_is_the_first_that_the_kernel_ends() -> None:
    code = "from engines.machine.bounds import *; first_to_go(); print(OOM_SCORE.read_text())"
    assert said_by(code) == "1000"


@LINUX
def test_its_use_of_the_disk_waits_for_every_other() -> None:
    code = (
        "import ctypes; from engines.machine.bounds import *; print(idle_io());"
        "print(ctypes.CDLL(None).syscall(IOPRIO_SET[platform.machine()] + 1, IOPRIO_WHO_PROCESS, 0) >> 13)"
    )
    assert said_by(code).split() == ["True", str(3)]


@LINUX
def test_memory_that_it_writes_is_bounded_and_files_that_it_maps_are_not(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**30)
    code = f"""
import mmap
from engines.machine.bounds import limit_memory
limit_memory(512 * 2**20)
with open({str(large)!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(len(mapped))
try:
    bytearray(2**30)
except MemoryError:
    print("refused")
"""
    assert said_by(code).split() == [str(2**30), "refused"]


def test_the_memory_is_that_of_the_machine_or_of_the_group_whichever_is_less() -> None:
    def read(path: Path, limit: str = "max") -> str:
        return "MemTotal:  1024 kB\n" if path.name == "meminfo" else limit

    assert whole_memory(read) == 2**20
    assert whole_memory(lambda path: read(path, "4096")) == 4096

    def nothing(path: Path) -> str:
        raise FileNotFoundError(path)

    assert whole_memory(nothing) is None
