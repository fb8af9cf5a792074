from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import BundleRefused
from engines.machine.memory import CGROUP, MEMINFO, admit, available_bytes, few_arenas, fits, give_back, needed_bytes

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


def test_what_fits_or_cannot_be_known_is_let_in() -> None:
    admit(10, needed_bytes(10))
    admit(10**12, None)


def test_giving_back_and_few_arenas_are_harmless() -> None:
    few_arenas()
    give_back()
