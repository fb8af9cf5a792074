from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engines.errors import BundleRefused
from engines.machine.memory import (
    CGROUP,
    MEMINFO,
    admit,
    available_bytes,
    few_arenas,
    fits,
    give_back,
    needed_bytes,
)

MIB = 2**20
MACHINE = {MEMINFO: "MemTotal:  16000000 kB\nMemAvailable:  8388608 kB\n"}
GROUP = {
    CGROUP / "memory.current": f"{900 * MIB}\n",
    CGROUP / "memory.max": f"{1000 * MIB}\n",
    CGROUP / "memory.stat": f"anon 5\ninactive_file {50 * MIB}\n",
}


def reader(files: dict[Path, str]):
    def read(path: Path) -> str:
        try:
            return files[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    return read


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 8192 * MIB),
        (MACHINE | GROUP, 150 * MIB),
        (MACHINE | GROUP | {CGROUP / "memory.max": "max\n"}, 8192 * MIB),
        (GROUP, 150 * MIB),
        ({MEMINFO: "no such line"}, None),
        ({}, None),
    ],
)
def test_the_tightest_limit_counts(files: dict[Path, str], expected: int | None) -> None:
    assert available_bytes(reader(files)) == expected


def test_this_machine_tells() -> None:
    found = available_bytes()
    assert found is not None
    assert found > 0


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    weights = 500 * MIB
    with pytest.raises(BundleRefused, match=r"takes about 1,096 MiB, and 800 MiB are left"):
        admit(weights, 800 * MIB)
    assert not fits(weights, 800 * MIB)


def test_a_larger_input_takes_more_while_it_is_computed() -> None:
    """What a ViT-S/16 of 57 MiB took beyond an empty process, at 16 images: 355, 613 and 939 MiB."""
    weights = 57 * MIB
    for (height, width), taken in {(224, 224): 355, (288, 512): 613, (448, 448): 939}.items():
        needed = needed_bytes(weights, 16 * height * width)
        assert taken * MIB < needed < 1.5 * taken * MIB
        assert not fits(weights, needed - 1, 16 * height * width)
    assert needed_bytes(2000 * MIB, 16 * 224 * 224) == needed_bytes(2000 * MIB)


def test_who_has_memory_for_a_smaller_batch_is_told_of_it() -> None:
    weights, pixels = 57 * MIB, 8 * 448 * 448
    with pytest.raises(BundleRefused, match=r"free memory, lower engine\.batch\.max_batch, or restart"):
        admit(weights, 250 * MIB, pixels)
    admit(weights, 250 * MIB, pixels // 8)
    with pytest.raises(BundleRefused, match="free memory, or restart"):
        admit(weights, 100 * MIB, pixels)


def test_what_fits_or_cannot_be_known_is_let_in() -> None:
    admit(10, needed_bytes(10))
    admit(10**12, None)


def test_giving_back_and_few_arenas_are_harmless() -> None:
    few_arenas()
    give_back()


# One large block that is freed, and then many of half its size, each with a small one behind it that stays.
FRAGMENTS = """
import ctypes, os
from engines.machine.memory import give_back, resident_mib
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def block(size):
    made = libc.malloc(size)
    ctypes.memset(made, 1, size)
    return made
libc.free(block(16 << 20))
before = resident_mib(os.getpid())
pairs = [(block(8 << 20), block(200_000)) for _ in range(16)]
for large, _ in pairs:
    libc.free(large)
print(resident_mib(os.getpid()) - before)
give_back()
print(resident_mib(os.getpid()) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_large_blocks_took_is_given_back_although_small_ones_stay() -> None:
    told = subprocess.run([sys.executable, "-c", FRAGMENTS], check=True, capture_output=True, text=True).stdout
    kept, left = map(float, told.split())
    assert kept > 100
    assert left < 10
