"""GPUs are read in a process of its own, over a stand-in of the library: there is no GPU where this is tested."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from engines.machine.nvml import library
from engines.machine.nvml import watch as watch_module
from engines.machine.nvml.health import GpuHealth, faults
from engines.machine.nvml.watch import READER, GpuWatch, module_version, read_once
from tests.support.scenario import run

STAND_IN = Path(__file__).parents[3] / "support" / "pynvml_stand_in.py"
H200: dict[str, Any] = {
    "name": "NVIDIA H200",
    "temperature": 45,
    "slowdown": 89,
    "memory": {"total": 150_000_000_000, "used": 3_000_000_000, "free": 147_000_000_000},
    "utilization": {"gpu": 37, "memory": 5},
    "power_mw": 312_000,
    "remapped_rows": [0, 0, 0, 0],
    "ecc": [3, 0],
    "reasons": 1,
    "events": 8,
    "recovery": 0,
}
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Says what GPUs there are, also while they are watched."""
    file = tmp_path / "gpus.json"
    monkeypatch.setenv("PYNVML_STATE", str(file))
    shutil.copy(STAND_IN, tmp_path / "pynvml.py")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[4]}")

    def write(*gpus: dict[str, Any], **more: Any) -> Path:
        whole = file.with_suffix(".new")
        whole.write_text(json.dumps({"driver": "580.65.06", "gpus": list(gpus), **more}))
        whole.replace(file)
        return file

    return write


def test_a_reading_has_what_the_library_tells(machine: Machine) -> None:
    machine(H200 | {"reasons": 0x1 | 0x40 | 0x4}, {"name": "NVIDIA GeForce RTX 4090", "temperature": 60})
    health = read_once()
    assert health.driver == "580.65.06"
    first, second = health.gpus
    assert first.model_dump() == {
        "index": 0,
        "name": "NVIDIA H200",
        "temperature_c": 45.0,
        "slowdown_c": 89.0,
        "memory_used_bytes": 3_000_000_000,
        "memory_total_bytes": 150_000_000_000,
        "utilisation": 0.37,
        "power_w": 312.0,
        "slowed_by": ("sw_power_cap", "hw_thermal_slowdown"),
        "ecc_corrected": 3,
        "ecc_uncorrected": 0,
        "rows_pending": False,
        "rows_failed": False,
        "recovery": "none",
        "xids": (),
        "lost": "",
    }
    # What this kind does not know is not known, and no fault.
    assert (second.ecc_uncorrected, second.rows_failed, second.recovery, second.lost) == (None, None, None, "")
    assert [fault.kind for fault in faults(health)] == ["slowed"]


def test_a_gpu_that_is_lost_leaves_the_others_told(machine: Machine) -> None:
    machine(H200 | {"lost": True}, H200)
    lost, well = read_once().gpus
    assert (lost.lost, well.lost, well.name) == ("GPU is lost", "", "NVIDIA H200")


def test_without_a_driver_it_says_so(machine: Machine) -> None:
    file = machine()
    file.write_text("{}")
    assert "NVML Shared Library Not Found" in read_once().problem


def test_a_driver_that_hangs_is_told_and_holds_nobody_up(machine: Machine) -> None:
    machine(H200, hang=True)
    started = time.monotonic()
    health = read_once(timeout_s=0.5)
    assert [fault.kind for fault in faults(health)] == ["driver_silent"]
    assert time.monotonic() - started < 60


def watched(work: Callable[[GpuWatch], Any], **options: Any) -> None:
    async def scenario() -> None:
        async with GpuWatch((*READER, "--every", "0.05"), **options) as watch, asyncio.timeout(60):
            await work(watch)

    asyncio.run(scenario())


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.02)


def kinds(watch: GpuWatch) -> list[str]:
    return [fault.kind for fault in faults(watch.health())]


def test_an_xid_comes_at_once_and_a_hanging_driver_after_a_while(machine: Machine) -> None:
    async def work(watch: GpuWatch) -> None:
        machine(H200)
        await until(lambda: watch.health().gpus and kinds(watch) == [])
        machine(H200 | {"xids": [79]})
        await until(lambda: kinds(watch) == ["xid"])
        machine(H200, hang=True)
        await until(lambda: kinds(watch) == ["driver_silent"])
        # The reading costs nothing, whatever the driver does.
        assert watch.health().gpus[0].name == "NVIDIA H200"

    machine(H200)
    watched(work, silent_s=1.0)


def test_an_xid_of_a_gpu_that_is_not_named_is_of_no_other(machine: Machine) -> None:
    """One that falls off the bus (Xid 79) cannot be asked for its number any more."""

    async def work(watch: GpuWatch) -> None:
        machine(H200, H200)
        await until(lambda: len(watch.health().gpus) == 2)
        machine(H200, H200 | {"lost": True, "xids": [79]})
        await until(lambda: len(kinds(watch)) == 2)
        told = faults(watch.health())
        assert [(fault.gpu, fault.kind) for fault in told] == [(1, "lost"), ("unknown", "xid")]
        assert "Xid 79 of a GPU that it does not name" in told[1].text

    machine(H200, H200)
    watched(work)


def test_gpus_that_are_not_counted_any_more_are_not_forgotten(machine: Machine) -> None:
    async def work(watch: GpuWatch) -> None:
        await until(lambda: watch.health().gpus)
        machine(H200 | {"lost": True}, countless=True)
        await until(lambda: kinds(watch) == ["lost"])

    machine(H200)
    watched(work)


def test_a_reader_that_ends_is_started_again() -> None:
    line = GpuHealth(driver="580.1").model_dump_json()
    reader = (sys.executable, "-S", "-c", f"print('''{line}''')")

    async def scenario() -> None:
        async with GpuWatch(reader, again_s=0.01) as watch, asyncio.timeout(60):
            await until(lambda: watch.health().driver)
            first = watch._heard_at
            await until(lambda: watch._heard_at > first)

    asyncio.run(scenario())


@pytest.mark.parametrize("steps", range(4))
def test_a_watch_that_is_left_as_its_reader_ends_is_left(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """What ends in the same moment swallows a cancellation, if it is waited for as `asyncio.wait_for` does."""

    class Reader:
        returncode = 1

        def __init__(self) -> None:
            self.stdout = asyncio.StreamReader()
            self.stdout.feed_eof()
            self.waited_for, self.ends = asyncio.Event(), asyncio.Event()

        def kill(self) -> None:
            self.ends.set()

        async def wait(self) -> None:
            self.waited_for.set()
            await self.ends.wait()

        communicate = wait

    async def scenario() -> None:
        readers: list[Reader] = []

        async def started(*_: object, **__: object) -> Reader:
            readers.append(Reader())
            return readers[-1]

        monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
        async with GpuWatch(("reader",)):
            await asyncio.sleep(0)
            await readers[0].waited_for.wait()
            readers[0].ends.set()
            for _ in range(steps):
                await asyncio.sleep(0)

    run(scenario, seconds=30)


def test_a_reader_that_fails_is_no_driver_that_is_silent() -> None:
    async def scenario() -> None:
        reader = (sys.executable, "-S", "-c", "raise SystemExit(3)")
        async with GpuWatch(reader, silent_s=0.0, again_s=60) as watch, asyncio.timeout(60):
            await until(lambda: watch.health().problem)
            assert (watch.health().problem, kinds(watch)) == ("asking the driver ended with status 3", [])

    asyncio.run(scenario())


def test_a_line_without_an_end_is_no_silent_driver_and_the_reader_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "MOST_BYTES", 1000)
    reader = (sys.executable, "-S", "-c", "import sys; sys.stdout.write('x' * 100_000)")

    async def scenario() -> None:
        with capture_logs() as logs:
            async with GpuWatch(reader, again_s=0.01, silent_s=0) as watch, asyncio.timeout(60):
                assert watch._task is not None
                await until(lambda: len(logs) >= 2)
                assert {entry["event"] for entry in logs} == {"gpu_watch_failed"}
                assert not watch._task.done()

    asyncio.run(scenario())
    # A pipe that is still open fails the test.
    gc.collect()


def test_a_reader_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    found = read_once((str(tmp_path / "none"),))
    assert "the driver cannot be asked" in found.problem
    assert faults(found) == []


def test_where_the_binding_is_not_installed_the_watch_ends_and_says_why() -> None:
    problem = GpuHealth(problem="pynvml cannot be imported").model_dump_json()

    async def scenario() -> GpuHealth:
        reader = (sys.executable, "-S", "-c", f"print('''{problem}''')")
        async with GpuWatch(reader, silent_s=0) as watch, asyncio.timeout(60):
            assert watch._task is not None
            await watch._task
            return watch.health()

    health = asyncio.run(scenario())
    assert "cannot be imported" in health.problem
    assert faults(health) == []


def test_the_version_of_the_kernel_module() -> None:
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)"
    assert module_version(lambda _: f"{line}\nGCC version:\n") == "580.65.06"

    def missing(_: Path) -> str:
        raise FileNotFoundError

    assert module_version(missing) == ""


def test_the_stand_in_and_the_real_binding_agree() -> None:
    """Every function and constant that is used is there, and the constants are the same."""
    real: Any = pytest.importorskip("pynvml")
    spec = importlib.util.spec_from_file_location("stand_in", STAND_IN)
    assert spec is not None
    assert spec.loader is not None
    stand_in: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    source = Path(library.__file__).read_text()
    names = set(re.findall(r"\b(nvml[A-Z]\w+|NVML\w*[A-Z]\w+)\b", source))
    names -= {"nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlReturn"}
    assert len(names) > 30
    for name in names:
        assert hasattr(real, name), name
        assert hasattr(stand_in, name), name
        if not callable(getattr(real, name)):
            assert getattr(stand_in, name) == getattr(real, name), name
