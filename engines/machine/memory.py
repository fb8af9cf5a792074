"""Memory of this process: whether an engine fits before it is loaded, and giving back what one leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

from engines.errors import Unavailable

# Measured on ONNX Runtime: a session holds its weights, and packs the matrices for its kernels while it still has them.
COPIES_OF_WEIGHTS = 2.0
# What is left of it when it is there, and what a pixel of a batch takes while it is computed: of a ViT-S/16 of 12
# blocks 190 to 360 bytes from 224 x 224 to 448 x 448 px, at 16 images. Wider networks take more, and weigh far more.
KEPT_OF_WEIGHTS, PIXEL_BYTES = 1.5, 300
OVERHEAD_BYTES = 96 * 2**20
# Of glibc's mallopt.
ARENA_MAX = -8
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def needed_bytes(weights: int, pixels: int = 0) -> int:
    """Most memory that loading an engine and warming it up takes.

    Args:
        weights: size of its files.
        pixels: of all images of its largest batch; 0 where a GPU computes them.
    """
    warm = KEPT_OF_WEIGHTS * weights + PIXEL_BYTES * pixels
    return round(max(COPIES_OF_WEIGHTS * weights, warm)) + OVERHEAD_BYTES


def available_bytes(read: Callable[[Path], str] = Path.read_text) -> int | None:
    """Memory that this process can still take: the least of what the machine and its control group have left.

    Args:
        read: reads a file of the kernel.

    Returns:
        Bytes, None where the kernel does not tell.
    """
    found = [left for left in (_machine(read), _control_group(read)) if left is not None]
    return min(found, default=None)


def _machine(read: Callable[[Path], str]) -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in read(MEMINFO).splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return None


def _control_group(read: Callable[[Path], str]) -> int | None:
    # Where there is no limit the file says "max". What the group has cached can be dropped.
    with contextlib.suppress(OSError, ValueError):
        used, limit = int(read(CGROUP / "memory.current")), int(read(CGROUP / "memory.max"))
        cached = [line for line in read(CGROUP / "memory.stat").splitlines() if line.startswith("inactive_file ")]
        return limit - used + sum(int(line.split()[1]) for line in cached)
    return None


def fits(weights: int, available: int | None, pixels: int = 0) -> bool:
    """Whether an engine can be loaded; where nobody knows what is left, it is tried.

    Args:
        weights: size of its files, bytes.
        available: memory that is left, bytes; None if that is unknown.
        pixels: see `needed_bytes`.
    """
    return available is None or needed_bytes(weights, pixels) <= available


def admit(weights: int, available: int | None, pixels: int = 0) -> None:
    """Refuse an engine that does not fit beside what is loaded.

    Args:
        weights: size of its files, bytes.
        available: memory that is left, bytes; None if that is unknown.
        pixels: see `needed_bytes`.

    Raises:
        Unavailable: with the numbers.
    """
    if available is not None and not fits(weights, available, pixels):
        needed = needed_bytes(weights, pixels)
        # A smaller batch is no help to one whose weights do not fit.
        smaller = "lower engine.batch.max_batch, " if fits(weights, available) else ""
        raise Unavailable(
            f"loading it takes about {needed / 2**20:,.0f} MiB, and {available / 2**20:,.0f} MiB are left: "
            f"free memory, {smaller}or restart the miner, which loads it alone"
        )


def few_arenas(most: int = 2) -> None:
    """Have the C library keep freed memory in few places instead of one for each thread, where nobody else finds it.

    To be called before threads are started; nothing where there is no glibc.

    Args:
        most: arenas.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(ARENA_MAX, most)


def give_back() -> None:
    """Return freed memory to the system, also from between what is in use.

    The C library keeps the weights of closed engines, and what images took below a few small blocks that stay: so swaps
    add up, and so do weeks of images. To map each large block by itself would cost an engine the pages of its
    activations, anew for each image, which is a twentieth of its time.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_mib(pid: int, read: Callable[[Path], str] = Path.read_text) -> float:
    """Resident memory of a process, MiB."""
    status = read(Path(f"/proc/{pid}/status"))
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kib) / 1024
