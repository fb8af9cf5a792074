"""Kernels that TensorRT-RTX made for a plan, on disk, so that no start, no swap and no request makes them again.

Never executed by us on a GPU.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import structlog

from engines.backends.tensorrt.library import Flavour
from engines.backends.tensorrt.plan import PlanDescription
from engines.machine.gpu import Gpu
from stage1.artifacts import write_atomic

# Of one plan of a ViT-S the library keeps a few megabytes.
MOST_BYTES = 1 << 30

log = structlog.get_logger(__name__)


def cache_path(plan: PlanDescription, gpu: Gpu, compiled: Path | None, home: Path | None = None) -> Path:
    """Where the kernels of a plan are kept: beside a plan that was compiled here, and not in a bundle, which is sealed.

    Args:
        plan: kernels are true of one plan, and of what follows.
        gpu: of one compute capability and one CUDA.
        compiled: directory of a plan that was compiled here.
        home: of caches of this user; by default `XDG_CACHE_HOME` or `~/.cache`.
    """
    home = home or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = compiled or home / "streetvision-cascade" / "kernels"
    parts = (plan.plan_sha256[:16], f"sm{gpu.compute_capability}", plan.fingerprint.version, f"cuda{gpu.driver}")
    return directory / ("-".join(parts) + ".kernels")


class KernelCache:
    """The runtime cache of one engine, which all of its contexts share.

    Args:
        flavour: TensorRT-RTX.
        path: from `cache_path`.
    """

    def __init__(self, flavour: Flavour, path: Path) -> None:
        self._flavour, self._path = flavour, path
        self._lock = threading.Lock()
        self._runtime_cache: Any = None
        self._stored = b""

    def attach(self, settings: Any) -> None:  # noqa: ANN401  the libraries have no types
        """Have contexts that are made by these settings use it; one that the library refuses is begun anew.

        Args:
            settings: an `IRuntimeConfig`.
        """
        with self._lock:
            if self._runtime_cache is None:
                self._runtime_cache = self._read(settings)
            if not settings.set_runtime_cache(self._runtime_cache):
                log.warning("kernel_cache_refused", path=str(self._path), library=str(self._flavour))

    def save(self) -> None:
        """Write it if there is something new in it; one that cannot be written is only told."""
        with self._lock:
            if self._runtime_cache is None:
                return
            made = bytes(self._runtime_cache.serialize())
            if made == self._stored:
                return
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._path, made)
            except OSError as error:
                log.warning("kernel_cache_not_written", path=str(self._path), reason=str(error))
                return
            self._stored = made

    def _read(self, settings: Any) -> Any:  # noqa: ANN401
        runtime_cache = settings.create_runtime_cache()
        try:
            kept = self._path.read_bytes() if self._path.stat().st_size <= MOST_BYTES else b""
        except OSError:
            return runtime_cache
        # It compares release and GPU itself, and stays empty where they differ.
        if kept and runtime_cache.deserialize(kept):
            self._stored = kept
        return runtime_cache
