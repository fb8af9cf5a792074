from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from engines.machine import child
from engines.machine.gpu import Gpu, NoGpu, find_gpu, read_answer

HERE = find_gpu()
ANSWER = {
    "name": "NVIDIA GeForce RTX 3090",
    "compute_capability": "8.6",
    "driver": "13.0",
    "total_bytes": 24 << 30,
    "free_bytes": 23 << 30,
}


def probe_that(does: str, tmp_path: Path) -> Path:
    path = tmp_path / "probe.py"
    path.write_text(does)
    return path


@pytest.mark.skipif(isinstance(HERE, Gpu), reason="there is a GPU")
def test_a_machine_without_a_gpu_says_why() -> None:
    assert isinstance(HERE, NoGpu)
    assert "libcuda" in HERE.reason or "cuInit" in HERE.reason


@pytest.mark.skipif(isinstance(HERE, NoGpu), reason="there is no GPU")
def test_a_gpu_is_found() -> None:
    assert isinstance(HERE, Gpu)
    assert 0 < HERE.free_bytes <= HERE.total_bytes


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "ended in SIGSEGV"),
        ("import os; os.abort()", "ended in SIGABRT"),
        ("raise SystemExit('out of luck')", "status 1: out of luck"),
        ("import sys; sys.exit(3)", "status 3: nothing"),
        ("import time; time.sleep(60)", "did not answer within 0.5 s"),
        ("print('hello')", "makes no sense: 'hello'"),
        ("", "makes no sense: ''"),
    ],
)
def test_whatever_the_driver_does_this_process_goes_on(does: str, reason: str, tmp_path: Path) -> None:
    timeout_s = 0.5 if "sleep" in does else 30.0
    found = find_gpu(probe=probe_that(does, tmp_path), timeout_s=timeout_s)
    assert isinstance(found, NoGpu)
    assert reason in found.reason


def test_a_probe_that_no_signal_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[subprocess.Popen[str]] = []
    end = subprocess.Popen.kill

    def in_the_driver(process: subprocess.Popen[str]) -> None:
        left.append(process)

    monkeypatch.setattr(subprocess.Popen, "kill", in_the_driver)
    monkeypatch.setattr(child, "END_S", 0.05)
    found = find_gpu(probe=probe_that("import time; time.sleep(60)", tmp_path), timeout_s=0.2)
    [process] = left
    assert process.poll() is None
    assert isinstance(found, NoGpu)
    end(process)
    process.wait()


def test_a_probe_that_is_not_there_is_no_gpu(tmp_path: Path) -> None:
    assert isinstance(find_gpu(probe=tmp_path / "none.py"), NoGpu)


def test_an_answer_is_a_gpu() -> None:
    found = read_answer(json.dumps(ANSWER), "", 0)
    assert isinstance(found, Gpu)
    assert found.model_dump() == ANSWER
    assert found.driver_major == 13


def test_a_refusal_is_its_reason() -> None:
    assert read_answer('{"reason": "cuInit answers with error 100"}', "", 0) == NoGpu(
        reason="cuInit answers with error 100"
    )


@pytest.mark.parametrize("change", [{"name": ""}, {"compute_capability": "nine"}, {"total_bytes": 0}, {"more": 1}])
def test_half_an_answer_is_none(change: dict[str, object]) -> None:
    assert isinstance(read_answer(json.dumps(ANSWER | change), "", 0), NoGpu)


DRIVER = """
#include <string.h>
#include <stddef.h>
static void *context = (void *)0x7fedcba98760;
int cuInit(unsigned flags) { %s; }
int cuDeviceGet(int *device, int ordinal) { *device = 3 + ordinal; return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 6; return device != 3; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "A card", length); return device != 3; }
int cuDevicePrimaryCtxRetain(void **made, int device) { *made = context; return device != 3; }
int cuCtxSetCurrent(void *wanted) { return wanted == context ? 0 : 201; }
int cuMemGetInfo_v2(size_t *left, size_t *all) { *left = 5000000000; *all = 24000000000; return 0; }
"""


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        (
            "return 0",
            Gpu(
                name="A card",
                compute_capability="8.6",
                driver="13.1",
                total_bytes=24_000_000_000,
                free_bytes=5_000_000_000,
            ),
        ),
        ("return 100", NoGpu(reason="cuInit answers with error 100")),
        ("return *(volatile int *)0", NoGpu(reason="asking the driver ended in SIGSEGV")),
    ],
)
def test_a_driver_is_asked(init: str, expected: Gpu | NoGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our own making, for the way to it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "driver.c").write_text(DRIVER % init)
    command = ["cc", "-shared", "-fPIC", "-w", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
    subprocess.run(command, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert find_gpu() == expected
