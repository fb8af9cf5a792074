"""GPU, driver and packages, judged without any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.machine.gpu import Gpu, NoGpu
from engines.machine.nvml.health import GpuHealth, GpuState
from miner.cli.doctor.diagnosis import Finding
from miner.cli.doctor.machine import gpu, installed, packages, release
from miner.settings import MinerSettings
from miner.update.check import FILE, UpdateAnswer, installed_version

H200 = Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0", total_bytes=2**37, free_bytes=2**36)
NONE = NoGpu(reason="libcuda.so.1: cannot open shared object file")
WELL = GpuHealth(driver="580.65.06", gpus=(GpuState(index=0, name="NVIDIA H200", temperature_c=45),))


def told(health: GpuHealth, found: Gpu | NoGpu, versions: dict[str, str], *, needed: bool) -> dict[str, Finding]:
    return {one.check: one for one in gpu(health, found, versions, needed=needed)}


def test_a_machine_without_a_gpu_needs_none_unless_its_bundle_does() -> None:
    assert told(GpuHealth(), NONE, {}, needed=False)["gpu"].verdict == "ok"
    assert told(GpuHealth(problem="no pynvml"), NONE, {}, needed=True)["gpu"].verdict == "error"


@pytest.mark.parametrize(
    ("driver", "package", "verdict", "says"),
    [
        ("580.65.06", "tensorrt-cu13", "ok", "enough for CUDA 13 (r580), enough for CUDA 12 (r535)"),
        ("570.86.15", "tensorrt-cu13", "error", "too old for CUDA 13 (r580), enough for CUDA 12 (r535)"),
        ("570.86.15", "tensorrt-cu12", "ok", "too old for CUDA 13 (r580)"),
        ("525.60.13", "tensorrt-cu12", "error", "too old for CUDA 12 (r535)"),
        ("570.86.15", "tensorrt-rtx", "error", "tensorrt-rtx 1.7"),
    ],
)
def test_the_driver_is_held_against_what_each_flavour_needs(driver: str, package: str, verdict: str, says: str) -> None:
    health = WELL.model_copy(update={"driver": driver})
    one = told(health, H200, {package: "1.7"}, needed=True)["driver"]
    assert (one.verdict, says in one.detail) == (verdict, True), one.detail
    assert bool(one.todo) == (verdict == "error")
    # Where the bundle is served on the CPU, nothing depends on it.
    assert told(health, H200, {package: "1.7"}, needed=False)["driver"].verdict in {"ok", "warning"}


@pytest.mark.parametrize(("cuda", "verdict"), [("13.1", "ok"), ("12.8", "error")])
def test_without_the_version_of_the_driver_cuda_says_as_much(cuda: str, verdict: str) -> None:
    found = H200.model_copy(update={"driver": cuda})
    health = GpuHealth(problem="pynvml cannot be imported")
    told_of = told(health, found, {"cuda-bindings": "13.0.1"}, needed=True)
    assert (told_of["driver"].verdict, f"CUDA {cuda}" in told_of["driver"].detail) == (verdict, True)
    assert (told_of["gpu health"].verdict, told_of["gpu health"].todo) == ("warning", "pip install nvidia-ml-py")


def test_faults_of_a_gpu_are_findings_with_what_to_do() -> None:
    ill = GpuHealth(driver="580.65.06", gpus=(GpuState(index=0, ecc_uncorrected=2, rows_pending=True),))
    found = [one for one in gpu(ill, H200, {}, needed=True) if one.check == "gpu health"]
    assert [one.verdict for one in found] == ["error", "warning"]
    assert all(one.todo for one in found)
    assert told(WELL, H200, {}, needed=True)["gpu health"].detail == "GPU 0 (NVIDIA H200): 45 °C, no error"


def test_two_packages_of_one_directory_are_an_error() -> None:
    assert packages({"onnxruntime": "1.32", "numpy": "2"}) == []
    [one] = packages({"onnxruntime": "1.32", "onnxruntime-gpu": "1.31"})
    assert (one.verdict, "onnxruntime 1.32 and onnxruntime-gpu 1.31" in one.detail) == ("error", True)


def test_what_is_installed_is_known_by_its_usual_name() -> None:
    assert {"onnxruntime", "prometheus-client", "bittensor-wallet"} <= installed().keys()


def answer(state: Path, newest: str | None) -> MinerSettings:
    found = UpdateAnswer(checked_at="2026-12-01T00:00:00+00:00", installed="0.0.1", newest=newest)
    found.write(state / FILE)
    return MinerSettings(state=state)


def test_nothing_is_said_where_nobody_has_looked(tmp_path: Path) -> None:
    assert release(MinerSettings(state=tmp_path)) == []


def test_a_newer_release_is_a_warning_that_says_what_to_do(tmp_path: Path) -> None:
    [found] = release(answer(tmp_path, "99.0.0"))
    assert (found.check, found.verdict) == ("release", "warning")
    assert found.detail == f"99.0.0 is published, as of 2026-12-01; {installed_version()} is installed"
    assert "cascade update check" in found.todo


def test_an_answer_that_is_older_than_the_program_says_nothing_of_it(tmp_path: Path) -> None:
    for newest in (installed_version(), None):
        [found] = release(answer(tmp_path, newest))
        assert (found.verdict, found.detail) == ("ok", f"{installed_version()}, and nothing newer as of 2026-12-01")
