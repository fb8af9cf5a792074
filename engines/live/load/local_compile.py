"""Engines compiled on this machine for bundles that come from another.

Some engines, such as a plan of TensorRT, run only on the GPU, the driver and the version they were built for. A bundle
cannot take in another one, because it is immutable and its certificate is bound to its files; so what is compiled here
lies beside the store, by bundle and by machine, and the golden images decide whether it may serve.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import structlog
import typer
from filelock import FileLock, Timeout

from engines.backends.backend import CompileOptions
from engines.backends.registry import backend
from engines.batches import MOST, buckets
from engines.engine import Engine
from engines.errors import BundleRefused
from engines.live.load.load_bundle import CheckedBundle
from engines.machine.child import Child, answer
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.spec import EngineSpec, Precision
from engines.store.file_names import ENGINE, GOLDEN
from stage1.artifacts import fsync_directory, fsync_tree

# The current one and where a rollback goes, and of another miner the same; a plan is as large as the weights.
KEPT = 4
POLL_S = 0.5
BUILDING = ".building-"
# Of what was compiled: the bundle and the machine.
PLACE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
TIMEOUT_S = 3600.0
# Measured of a ViT-H/16+ in bf16: 3.4 times the weights.
COPIES_WHILE_BUILDING = 2

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Misfit:
    """What keeps an engine that a bundle holds from running here, where one compiled here could.

    Attributes:
        why: what differs.
        library: the one that compiles here.
        place: directory of what is compiled for this machine as it is now.
    """

    why: str
    library: str
    place: Path

    @property
    def compiled(self) -> bool:
        """Whether that was done before."""
        return self.place.is_dir()


class LocalCompiler:
    """Compiles, and finds again what was compiled. Several miners may share a directory.

    Args:
        root: created when something is compiled.
        find: looks for the GPU.
    """

    def __init__(self, root: Path, *, find: Callable[[], Gpu | NoGpu] = find_gpu) -> None:
        self._root = root
        self._find = find

    def misfit(self, checked: CheckedBundle, spec: EngineSpec) -> Misfit | None:
        """Compare a bundle with this machine; nothing is shown to the library.

        Args:
            checked: the bundle.
            spec: the engine that is to run it.

        Returns:
            None if nothing differs, if the engine is compiled whenever it is loaded, or if it cannot run here at all.
        """
        held = checked.spec == spec
        found = backend(spec.backend).mismatch(spec, checked.directory, held=held, find=self._find)
        if found is None:
            return None
        place = self._root / f"{checked.manifest.bundle_id}-{found.machine[:16]}"
        with contextlib.suppress(OSError):
            # What is kept is what was used last.
            os.utime(place)
        return Misfit(found.why, found.library, place)

    def build(
        self,
        checked: CheckedBundle,
        spec: EngineSpec,
        misfit: Misfit,
        child: Child,
        *,
        most: int = MOST,
        again: bool = False,
    ) -> None:
        """Compile for this machine in a process of its own; takes minutes for a large network.

        Args:
            checked: the bundle.
            spec: the engine.
            misfit: what differs.
            child: runs it.
            most: largest batch that will be asked of it; the golden images are tried up to there.
            again: replace what is there, because it does not load.

        Raises:
            BundleRefused: it cannot be compiled here; nothing is left behind.
            Interrupted: it is not wanted any more; nothing is left behind.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with self._alone(child):
            # Another miner may have done it meanwhile.
            if again or not misfit.compiled:
                log.info("compiling", bundle=checked.manifest.bundle_id, engine=str(spec), by=misfit.library)
                self._build(checked, spec, misfit, child, most)
                log.info("compiled", bundle=checked.manifest.bundle_id, engine=str(spec))
            self._prune(misfit.place)

    @contextmanager
    def _alone(self, child: Child) -> Iterator[None]:
        lock = FileLock(self._root / ".lock")
        while not lock.is_locked:
            child.check()
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=POLL_S)
        try:
            yield
        finally:
            lock.release()

    def _build(self, checked: CheckedBundle, spec: EngineSpec, misfit: Misfit, child: Child, most: int) -> None:
        for leftover in self._root.glob(f"{BUILDING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = self._root / f"{BUILDING}{secrets.token_hex(4)}"
        work.mkdir()
        try:
            arguments = [str(checked.directory / ENGINE), str(work), "--spec", spec.model_dump_json()]
            arguments += ["--library", misfit.library]
            arguments += ["--timing", str(self._root / "timing")]
            arguments += ["--golden", str(checked.directory / GOLDEN), "--precision", checked.spec.precision]
            arguments += ["--tolerance", str(checked.manifest.parity_tolerance), "--most", str(most)]
            child.run("engines.live.load.local_compile", arguments, doing="compiling it", timeout_s=TIMEOUT_S)
            fsync_tree(work)
            if misfit.compiled:
                misfit.place.rename(work.with_name(f"{work.name}-replaced"))
            work.rename(misfit.place)
            fsync_directory(self._root)
        except BundleRefused as error:
            raise BundleRefused(f"{checked.directory.name}: {error}") from None
        finally:
            for path in (work, work.with_name(f"{work.name}-replaced")):
                shutil.rmtree(path, ignore_errors=True)

    def _prune(self, used: Path) -> None:
        others = [path for path in self._root.iterdir() if path != used and PLACE.fullmatch(path.name)]
        for old in sorted(others, key=lambda path: path.stat().st_mtime)[: -KEPT + 1]:
            shutil.rmtree(old, ignore_errors=True)


def main(
    model: Path,
    into: Path,
    *,
    spec: Annotated[str, typer.Option()],
    library: Annotated[str, typer.Option()],
    timing: Annotated[Path, typer.Option()],
    golden: Annotated[Path, typer.Option()],
    tolerance: Annotated[float, typer.Option()],
    precision: Annotated[str, typer.Option()],
    most: Annotated[int, typer.Option()],
) -> None:
    """Compile the graph MODEL for the engine of SPEC into a directory; the golden images decide how."""

    def compile_it() -> None:
        from engines.backends.registry import compile_engine  # noqa: PLC0415  at low priority, too
        from engines.live.load.golden_check import check_parity  # noqa: PLC0415

        made_in = cast("Precision", precision)

        def gate(engine: Engine) -> None:
            engine.warm_up(most)
            check_parity(engine, golden, tolerance, precision=made_in, sizes=buckets(most))

        options = CompileOptions(timing_cache=timing, library=library, gate=gate)
        compile_engine(EngineSpec.model_validate_json(spec), model, into=into, options=options)

    answer(compile_it)


if __name__ == "__main__":
    typer.run(main)
