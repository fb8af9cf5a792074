"""Engines compiled on this machine for bundles that come from another.

A plan of TensorRT runs on the GPU, the driver and the version it was built for. A bundle cannot take in another one,
because it is immutable and its certificate is bound to its files; so what is compiled here lies beside the store, by
bundle and by machine, and the golden images decide whether it may serve.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from engines.bundle import ENGINE
from engines.child import Child, answer
from engines.device import Gpu, NoGpu, find_gpu
from engines.engine import EngineSpec
from engines.errors import BundleRefused, Unavailable
from engines.loading import CheckedBundle
from engines.tensorrt_flavour import Flavour, FlavourName, load_flavour
from engines.tensorrt_plan import DESCRIPTION, Fingerprint, PlanDescription
from stage1.artifacts import fsync_directory, fsync_tree, sha256_json

# The current one, and where a rollback goes; a plan is as large as the weights.
KEPT = 2
BUILDING = ".building-"


@dataclass(frozen=True)
class Misfit:
    """What keeps an engine that a bundle holds from running here, where one compiled here could.

    Attributes:
        why: what differs.
        place: directory of what is compiled for this machine as it is now.
    """

    why: str
    place: Path

    @property
    def compiled(self) -> bool:
        """Whether that was done before."""
        return self.place.is_dir()


class Workshop:
    """Compiles, and finds again what was compiled; one process at a time uses a directory.

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
        if spec.backend != "tensorrt":
            return None
        built = PlanDescription.read(checked.directory / DESCRIPTION).fingerprint if checked.spec == spec else None
        here = self._here(built)
        if here is None:
            return None
        differences = [f"the bundle holds no plan of {spec}"] if built is None else built.differences(here)
        if not differences:
            return None
        digest = sha256_json([spec.model_dump(mode="json"), here.model_dump(mode="json")])
        return Misfit(", ".join(differences), self._root / f"{checked.manifest.bundle_id}-{digest[:16]}")

    def build(self, checked: CheckedBundle, spec: EngineSpec, place: Path, child: Child) -> None:
        """Compile for this machine in a process of its own; takes minutes for a large network.

        Args:
            checked: the bundle.
            spec: the engine.
            place: of the misfit.
            child: runs it.

        Raises:
            BundleRefused: it cannot be compiled here, or was ended; nothing is left behind.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        for leftover in self._root.glob(f"{BUILDING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = self._root / f"{BUILDING}{secrets.token_hex(4)}"
        work.mkdir()
        try:
            arguments = [str(checked.directory / ENGINE), str(work), "--spec", spec.model_dump_json()]
            child.run("engines.workshop", [*arguments, "--timing", str(self._root / "timing")], doing="compiling it")
            fsync_tree(work)
            shutil.rmtree(place, ignore_errors=True)
            work.rename(place)
            fsync_directory(self._root)
        except BundleRefused as error:
            raise BundleRefused(f"{checked.directory.name}: {error}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._prune()

    def _here(self, built: Fingerprint | None) -> Fingerprint | None:
        """This machine with the library that a plan was built by, or else with the one that is installed."""
        flavour = _installed(None if built is None else built.flavour) or _installed(None)
        gpu = None if flavour is None else self._find()
        if flavour is None or not isinstance(gpu, Gpu):
            return None
        return Fingerprint.here(flavour.name, flavour.version, gpu)

    def _prune(self) -> None:
        found = [path for path in self._root.iterdir() if path.is_dir() and (path / DESCRIPTION).is_file()]
        for old in sorted(found, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _installed(name: FlavourName | None) -> Flavour | None:
    try:
        return load_flavour(name)
    except Unavailable:
        return None


def main(
    model: Path, into: Path, *, spec: Annotated[str, typer.Option()], timing: Annotated[Path, typer.Option()]
) -> None:
    """Compile the graph MODEL for the engine of SPEC into a directory."""

    def compile_it() -> None:
        from engines.compiling import compile_engine  # noqa: PLC0415  at low priority, too

        compile_engine(EngineSpec.model_validate_json(spec), model, into=into, timing_cache=timing)

    answer(compile_it)


if __name__ == "__main__":
    typer.run(main)
