"""Our axon in a process of its own, asked by real SDKs: every row of the interop matrix is as expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
VARIABLES = {"dendrite 9.9": "BITTENSOR9_PYTHON", "http_auth 11.3": "BITTENSOR11_PYTHON"}
SAFETY_S = 540


@pytest.fixture(params=["pinned", *(pytest.param(name, marks=pytest.mark.interop) for name in VARIABLES)])
def python(request):
    """The interpreter whose bittensor asks."""
    if request.param == "pinned":
        return sys.executable
    found = os.environ.get(VARIABLES[request.param], "")
    if not found:
        pytest.skip(f"{VARIABLES[request.param]} does not name an interpreter with that bittensor")
    return found


def test_every_row_is_as_expected(python):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.interop", "--quick", "--peer", python],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SAFETY_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("every answer is as expected")
    assert done.stdout.count(" ok ") > 30


def test_an_interpreter_that_is_not_there_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.interop", "--peer", "/no/python"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "/no/python" in done.stderr
    assert "make interop" in done.stderr
