"""What a machine is, as far as it decides what an engine computes and how fast."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from engines.machine.cores import usable_cores
from engines.machine.gpu import Gpu, NoGpu
from miner.cli.engines.proof.record import Machine

CPUINFO, DRIVER = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")
# By which oneDNN and MLAS choose their kernels.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
PACKAGES = re.compile(r"(onnxruntime|openvino|tensorrt|torch|numpy|cuda|nvidia)(?!.*-(tools|stubs)$)", re.IGNORECASE)


def this_machine(gpu: Gpu | NoGpu, read: Callable[[Path], str] = Path.read_text) -> Machine:
    """This one.

    Args:
        gpu: what was found.
        read: reads a file of the kernel.
    """
    cpu = _read(CPUINFO, read)
    flags = set(re.findall(r"\S+", _field(cpu, "flags") or _field(cpu, "Features")))
    driver = re.search(r"\s(\d+\.\d+(\.\d+)*)\s", _read(DRIVER, read).partition("\n")[0])
    return Machine(
        processor=_field(cpu, "model name") or platform.processor() or platform.machine(),
        instructions=tuple(one for one in INSTRUCTIONS if one in flags),
        cores=usable_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        gpu=gpu if isinstance(gpu, Gpu) else None,
        driver=driver[1] if driver else "",
        versions={"python": platform.python_version(), **_packages()},
    )


def _packages() -> dict[str, str]:
    found = {}
    for one in metadata.distributions(path=sys.path):
        name = one.metadata["Name"]
        if name and PACKAGES.match(name):
            found[name.lower()] = one.version
    return dict(sorted(found.items()))


def _read(path: Path, read: Callable[[Path], str]) -> str:
    with contextlib.suppress(OSError):
        return read(path)
    return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
