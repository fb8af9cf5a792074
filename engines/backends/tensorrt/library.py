"""The two TensorRT libraries behind one name: `tensorrt` for production, `tensorrt_rtx` also without NVIDIA's index.

Code of this project calls the module `trt` where both libraries must have a name, and `rtx` where only the second has.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from engines.errors import Unavailable

FlavourName = Literal["tensorrt", "tensorrt_rtx"]
# How a message of the log begins that lists all layers of an engine.
LISTING = ("Layers:", "Engine Layer Information:")
EXTRAS: dict[FlavourName, str] = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}


class ErrorLines:
    """What TensorRT complains of: its functions return None or False, and the reason is a line of its log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: list[list[str]] = []
        self._total = 0

    @property
    def total(self) -> int:
        """Lines since the library was loaded."""
        return self._total

    def add(self, line: str) -> None:
        """Tell it to whoever records."""
        with self._lock:
            self._total += 1
            for reader in self._readers:
                reader.append(line.strip())

    @contextmanager
    def recorded(self) -> Iterator[list[str]]:
        """Lines that are written meanwhile, by any thread."""
        lines: list[str] = []
        with self._lock:
            self._readers.append(lines)
        try:
            yield lines
        finally:
            with self._lock:
                self._readers = [reader for reader in self._readers if reader is not lines]


class LayerListing:
    """The layers of the engine that was built last in this process, as the log tells them."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, message: str) -> None:
        """Keep a message if it lists layers."""
        if message.lstrip().startswith(LISTING):
            self.text = message

    def taken(self) -> str:
        """The listing, which is then forgotten; empty if there was none."""
        text, self.text = self.text, ""
        return text


@dataclass(frozen=True)
class Flavour:
    """A TensorRT that is installed.

    Attributes:
        name: of its module.
        version: all four numbers.
        trt: the module.
        logger: the only `ILogger` of this process: the library keeps the first that it is given and ignores others.
        recorder: an `IErrorRecorder`.
        errors: where both write to.
        listing: where the logger keeps what was built.
    """

    name: FlavourName
    version: str
    trt: Any
    logger: Any
    recorder: Any
    errors: ErrorLines
    listing: LayerListing = field(default_factory=LayerListing)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def load_flavour(name: FlavourName | None = None) -> Flavour:
    """Import a TensorRT.

    Args:
        name: which; default `tensorrt`, or else `tensorrt_rtx`.

    Raises:
        Unavailable: it is not installed; says what to install.
    """
    missing = []
    for candidate in EXTRAS if name is None else (name,):
        try:
            trt: Any = importlib.import_module(candidate)
        except (ImportError, OSError) as error:
            missing.append(f"{candidate} cannot be imported ({error})")
            continue
        errors, listing = ErrorLines(), LayerListing()
        logger = make_logger(trt, errors, listing)
        return Flavour(candidate, trt.__version__, trt, logger, make_recorder(trt, errors), errors, listing)
    extra = EXTRAS[name or "tensorrt"]
    raise Unavailable(f"{'; '.join(missing)}: pip install 'streetvision-cascade[{extra}]'")


def make_logger(trt: Any, errors: ErrorLines, listing: LayerListing | None = None) -> Any:  # noqa: ANN401  no types
    """An `ILogger` that keeps what went wrong, and what was built."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                errors.add(message)
            elif listing is not None and severity == trt.ILogger.Severity.VERBOSE:
                listing.add(message)

    return Logger()


def make_recorder(trt: Any, errors: ErrorLines) -> Any:  # noqa: ANN401
    """An `IErrorRecorder` that hands everything on; an object that has one writes its errors there, not to the log."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, _code: Any, description: str) -> bool:  # noqa: ANN401
            errors.add(description)
            return False

        def num_errors(self) -> int:
            return 0

        def get_error_code(self, _index: int) -> Any:  # noqa: ANN401
            return trt.ErrorCodeTRT.SUCCESS

        def get_error_desc(self, _index: int) -> str:
            return ""

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            """Nothing is kept."""

    return Recorder()
