"""What a backend is: a runtime that compiles a Stage-1 graph, runs it, and says where it can.

A backend is one file, or a folder with a `backend.py`, that ends in `BACKEND = ...`, and one line in
`engines.backends.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from engines.machine.gpu import Gpu, NoGpu
from engines.spec import EngineSpec, Precision
from stage1.tolerance import TOLERANCE

if TYPE_CHECKING:
    # It brings numpy, and the command line asks the registry for names.
    from engines.engine import Engine


@dataclass(frozen=True)
class CompileOptions:
    """How an engine is compiled; each backend reads what concerns it.

    Attributes:
        refittable: whether another night's weights can be put into the engine later; may cost speed.
        timing_cache: directory for what a compiler measures while it builds; None for none.
        library: which of several libraries of one backend; None for the one that is installed.
        gate: compares an engine that was compiled with what it must compute, at every batch size, and raises an
            `EngineError` where it differs; a backend that has another way to compile then takes that. None to take
            what was compiled as it is.
    """

    refittable: bool = False
    timing_cache: Path | None = None
    library: str | None = None
    gate: Callable[[Engine], object] | None = None


@dataclass(frozen=True)
class Mismatch:
    """What keeps a compiled engine from running on this machine, where one that is compiled here could.

    Attributes:
        why: what differs.
        machine: a hash of what an engine that is compiled here is good for.
        library: by which it would be compiled.
    """

    why: str
    machine: str
    library: str


class Backend(Protocol):
    """A runtime; what is not said here is done by the defaults.

    Attributes:
        specs: the engines that it has, the preferred ones first.
        distributions: packages whose versions decide its numbers, under every name that they are installed by.
        file_prefixes: of the files that it writes beside the graph, one for each engine that may lie there. Each begins
            as `ENGINE_PREFIXES` says, so that the certificate is bound to them.
        slow_to_compile: compiling takes minutes on a CPU, so that it is done where it is asked for, and not to try.
    """

    specs: ClassVar[tuple[EngineSpec, ...]]
    distributions: ClassVar[tuple[str, ...]] = ()
    file_prefixes: ClassVar[tuple[str, ...]] = ()
    slow_to_compile: ClassVar[bool] = False

    def check(self, spec: EngineSpec) -> str:
        """Make sure that an engine can be compiled and run here, without a graph; a GPU, if it needs one, is there.

        Returns:
            Name and version of the runtime.

        Raises:
            BundleRefused: it cannot; says what to do.
        """
        ...

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:
        """Load an engine.

        Args:
            spec: one of `specs`.
            model: the fp32 graph; what else the engine needs lies beside it.
            compiled: another directory of what was compiled.
            threads: intra-op threads on a CPU; None for all usable cores.

        Raises:
            BundleRefused: the runtime is not installed, cannot do what the spec says on this machine, or does not take
                the graph; says what to do.
        """
        ...

    def compile(self, spec: EngineSpec, model: Path, into: Path, options: CompileOptions) -> None:  # noqa: ARG002
        """Write the files that an engine reads beside the graph; by default it reads the graph itself.

        Args:
            spec: one of `specs`.
            model: the fp32 graph; the twin of `graph_precision` lies beside it.
            into: directory to write them to.
            options: how.

        Raises:
            BundleRefused: the runtime is not installed, or does not take the graph.
            BuildFailed: it cannot be compiled here.
        """
        return

    def graph_precision(self, spec: EngineSpec) -> Precision:  # noqa: ARG002
        """Precision of the graph that an engine is compiled from: the export writes it beside the fp32 one."""
        return "fp32"

    def tolerance(self, spec: EngineSpec) -> float:  # noqa: ARG002
        """Largest difference of an engine from its own golden outputs, in logits."""
        return TOLERANCE

    def mismatch(
        self,
        spec: EngineSpec,  # noqa: ARG002
        bundle: Path,  # noqa: ARG002
        *,
        held: bool,  # noqa: ARG002
        find: Callable[[], Gpu | NoGpu],  # noqa: ARG002
    ) -> Mismatch | None:
        """Compare what a bundle holds with this machine; nothing is shown to the runtime.

        Args:
            spec: the engine that is to run it.
            bundle: its directory.
            held: whether the bundle holds such an engine.
            find: looks for the GPU.

        Returns:
            None if nothing differs, if the engine is compiled whenever it is loaded, or if it cannot run here at all.
        """
        return None
