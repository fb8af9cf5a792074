"""Set-up does not hang on one host: torch comes from where it can be had, and its size is told before it is fetched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
echo "$*" >>"{asked}"
case "$*" in
    {works}) exit 0 ;;
esac
exit 1
"""


def install(tmp_path: Path, works: str, *, gpu: bool = False) -> tuple[int, list[str], str]:
    """Status, what pip was asked for, and what was said, with a pip that can only do what `works` matches."""
    asked = tmp_path / "asked"
    pip = tmp_path / "pip"
    pip.write_text(PIP.format(asked=asked, works=works))
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nexit {0 if gpu else 1}\n")
    for script in (pip, smi):
        script.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "install_torch", pip, "9.9.9"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH_CPU_INDEX": "https://cpu.example"},
    )
    return done.returncode, asked.read_text().splitlines(), done.stdout + done.stderr


def test_a_wheel_at_hand_is_taken(tmp_path: Path) -> None:
    status, asked, _ = install(tmp_path, "*")
    assert (status, asked) == (0, ["install -q --no-deps torch==9.9.9+cpu"])


def test_the_cpu_index_is_asked_once_and_not_for_long(tmp_path: Path) -> None:
    status, asked, said = install(tmp_path, "*--index-url*")
    assert status == 0
    assert asked[1] == "install -q --no-deps --retries 1 --timeout 15 --index-url https://cpu.example torch==9.9.9+cpu"
    assert len(asked) == 2
    assert "GB" not in said


def test_without_the_cpu_index_the_other_build_is_taken_with_a_word_about_its_size(tmp_path: Path) -> None:
    status, asked, said = install(tmp_path, "*torch==9.9.9")
    assert status == 0
    assert asked[-1] == "install -q torch==9.9.9"
    assert "cannot be had from https://cpu.example" in said
    assert "3 GB to download" in said


def test_where_there_is_a_gpu_the_cuda_build_is_taken(tmp_path: Path) -> None:
    assert install(tmp_path, "*", gpu=True)[1] == ["install -q torch==9.9.9"]


def test_where_there_is_none_at_all_it_fails(tmp_path: Path) -> None:
    assert install(tmp_path, "nothing")[0] != 0


@pytest.mark.parametrize("package", ["stage1", "engines", "offline", "stage2_bridge", "miner"])
def test_the_types_of_a_package_are_public(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
