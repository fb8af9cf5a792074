"""The machine: memory for a swap, the GPU and its driver, packages that exclude each other, and this release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata

from engines.live.load.load_bundle import CheckedBundle
from engines.machine.gpu import Gpu, NoGpu
from engines.machine.memory import available_bytes, needed_bytes
from engines.machine.nvml.health import GpuHealth, faults
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.settings import MinerSettings
from miner.update.check import installed_version, last_answer

GIB = 2**30
# The oldest driver for the wheels of a CUDA.
# Source: NVIDIA TensorRT 11.4, Prerequisites: r580 for CUDA 13, and r535 for the wheels of CUDA 12.
OLDEST_DRIVER = {13: 580, 12: 535}
# Of packages whose name does not say it.
CUDA_OF = {"tensorrt-rtx": 13, "cuda-bindings": None}


def installed() -> dict[str, str]:
    """Version of each installed distribution, by its name in lower case."""
    return {one.name.lower().replace("_", "-"): one.version for one in metadata.distributions() if one.name}


def packages(found: Mapping[str, str]) -> list[Finding]:
    """Packages that write into the same directory; nothing where there are none.

    Args:
        found: versions by name.
    """
    twins = sorted(name for name in found if name in {"onnxruntime", "onnxruntime-gpu"})
    if len(twins) < 2:
        return []
    detail = (
        f"{' and '.join(f'{name} {found[name]}' for name in twins)} are both installed, and share one directory: "
        "which of them computes is a matter of chance"
    )
    return [error("packages", detail, "pip uninstall both, and install the one that you want again")]


def memory(settings: MinerSettings, checked: CheckedBundle, *, beside_a_miner: bool) -> list[Finding]:
    """Whether a new bundle can be loaded beside the live one, by the estimate that a swap makes.

    Args:
        settings: of the miner.
        checked: the live bundle.
        beside_a_miner: one has its engine loaded already.
    """
    available = available_bytes()
    one = needed_bytes(checked.weights, checked.pixels(settings.engine.batch.max_batch))
    need = one if beside_a_miner else 2 * one
    what = "another engine beside that of the miner takes" if beside_a_miner else "two engines take"
    if available is None:
        return [warning("memory", f"{what} about {need / GIB:.1f} GiB; what is left cannot be told")]
    told = f"{what} about {need / GIB:.1f} GiB, and {available / GIB:.1f} GiB are left"
    if need <= available:
        return [ok("memory", told)]
    todo = "free memory, or lower engine.batch.max_batch; a swap is refused until then"
    if one > available:
        return [error("memory", f"{told}: not even one fits", todo)]
    return [warning("memory", told, todo)]


def gpu(health: GpuHealth, found: Gpu | NoGpu, versions: Mapping[str, str], *, needed: bool) -> Iterator[Finding]:
    """The GPU, its driver against what each installed package needs, and its health.

    Args:
        health: as NVML tells it; with the driver's version alone where it does not.
        found: as CUDA tells it.
        versions: of installed packages, by name.
        needed: whether the bundle is served on a GPU.
    """
    if isinstance(found, NoGpu) and not health.gpus and not health.driver and not needed:
        yield ok("gpu", "there is none, and the bundle needs none")
        return
    if isinstance(found, NoGpu):
        todo = "see `nvidia-smi`, and install the driver"
        yield (error if needed else warning)("gpu", f"CUDA cannot use one: {found.reason}", todo if needed else "")
    else:
        memory = f"{found.free_bytes / GIB:.1f} of {found.total_bytes / GIB:.1f} GiB free"
        yield ok("gpu", f"{found.name}, compute capability {found.compute_capability}, {memory}")
    yield from _driver(health, found, versions, needed=needed)
    yield from _health(health)


def _driver(health: GpuHealth, found: Gpu | NoGpu, versions: Mapping[str, str], *, needed: bool) -> Iterator[Finding]:
    major = health.driver_major
    if major is None:
        if isinstance(found, NoGpu):
            return
        # Without the version of the driver, the newest CUDA that it knows says as much.
        named = f"one that knows CUDA {found.driver}"
        enough = {cuda: found.driver_major >= cuda for cuda in OLDEST_DRIVER}
    else:
        named = health.driver
        enough = {cuda: major >= oldest for cuda, oldest in OLDEST_DRIVER.items()}
    answers = [
        f"{'enough' if enough[cuda] else 'too old'} for CUDA {cuda} (r{oldest})"
        for cuda, oldest in OLDEST_DRIVER.items()
    ]
    told = f"{named}: {', '.join(answers)}"
    lacking = [f"{name} {versions[name]}" for name, cuda in _cuda_packages(versions) if not enough.get(cuda, True)]
    if lacking:
        todo = f"install driver r{OLDEST_DRIVER[13]} or newer, or the packages for CUDA 12"
        yield (error if needed else warning)("driver", f"{told}; installed for a newer one: {', '.join(lacking)}", todo)
    else:
        yield ok("driver", told)


def _cuda_packages(versions: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Installed packages that bring a CUDA of their own, and which."""
    for name, version in sorted(versions.items()):
        if name.startswith("tensorrt") and name.endswith(("-cu12", "-cu13")):
            yield name, int(name[-2:])
        elif name in CUDA_OF:
            yield name, CUDA_OF[name] or int(version.partition(".")[0])


def _health(health: GpuHealth) -> Iterator[Finding]:
    wrong = faults(health)
    for fault in wrong:
        yield (error if fault.level == "alarm" else warning)("gpu health", fault.text, fault.todo)
    if health.problem:
        yield warning("gpu health", f"is not watched: {health.problem}", "pip install nvidia-ml-py")
    elif not wrong:
        told = (
            f"{gpu}: {gpu.temperature_c:.0f} °C, no error" if gpu.temperature_c is not None else f"{gpu}: no error"
            for gpu in health.gpus
        )
        yield ok("gpu health", "; ".join(told) or "no GPU is known to the driver")


def release(settings: MinerSettings) -> list[Finding]:
    """Whether the last look for a newer release has found one; the doctor asks nobody, and says nothing without one."""
    found = last_answer(settings.state)
    if found is None:
        return []
    installed, day = installed_version(), found.checked_at[:10]
    if found.newer_than(installed):
        told = f"{found.newest} is published, as of {day}; {installed} is installed"
        return [warning("release", told, "`cascade update check` says what is new, docs/updating.md how to take it")]
    return [ok("release", f"{installed}, and nothing newer as of {day}")]
