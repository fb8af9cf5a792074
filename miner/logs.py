"""Logging, set up once at the edge of a process."""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
from collections.abc import MutableMapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Literal, TextIO

import structlog

from stage1.errors import without_addresses
from stage1.settings import Section

SDK_LOGGER = "bittensor"
# Has a line for each request, which the miner's own lines tell of.
HTTP_LOGGER = "httpx2"
# Also who asks, which stands before the host.
_AFTER_HOST = re.compile(r"(\w+://)(?:[^/\s?#]*@)?([^/\s?#]*)\S*")


def configure_logging(level: str = "INFO", json: bool | None = None, *, stream: TextIO | None = None) -> None:
    """Send every log line of this process, structlog's and the standard library's, one way to one stream.

    Args:
        level: the lowest level that is told: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        json: True for one JSON object a line, False for text; by default text if the stream is a terminal.
        stream: where to, standard error by default; standard output belongs to what a command prints.

    Raises:
        ValueError: no such level.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    as_json = not terminal if json is None else json
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level is {level!r}; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    handler = logging.StreamHandler(stream)
    structlog.configure(
        processors=[*_shared(), *_renderer(as_json, terminal)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=partial(_Lines, handler),
        # Whoever has one would go on with the level of before, where that is changed.
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(as_json, terminal)],
        )
    )
    # Of libraries: otherwise they would be text among JSON lines.
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # Not a level: `repair_loggers_after_bittensor` resets those.
    logging.getLogger(HTTP_LOGGER).addFilter(_worth_telling)


class _Lines:
    """What structlog hands a finished line to: the stream of the handler through which the libraries' lines go.

    A logger of the standard library would look for the frame of the caller and make two records of each line, which is
    half of what a line costs.

    Args:
        handler: holds the stream, and the lock of its lines.
        name: of the logger.
    """

    __slots__ = ("_handler", "name")

    def __init__(self, handler: logging.StreamHandler[TextIO], name: str = "") -> None:
        self._handler = handler
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line. One that cannot be written is lost: there is nowhere else to say so."""
        with self._handler.lock or nullcontext(), suppress(OSError, ValueError):
            self._handler.stream.write(f"{line}\n")
            self._handler.stream.flush()

    debug = info = warning = error = critical = msg


def _worth_telling(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        # Whoever has the whole address of an alert can write there.
        record.args = tuple(arg if isinstance(arg, int) else _AFTER_HOST.sub(r"\1\2", str(arg)) for arg in record.args)
    return record.levelno > logging.INFO or logging.getLogger().isEnabledFor(logging.DEBUG)


def repair_loggers_after_bittensor() -> None:
    """Undo what importing bittensor does to logging; call it after the import and after any of its `logging` calls.

    The import sets every logger that exists to CRITICAL, also those of asyncio and uvicorn, and prints its own records
    on standard output through a queue. Afterwards all loggers follow the root logger again, and bittensor's records go
    the same way as everyone's.
    """
    for logger in list(logging.root.manager.loggerDict.values()):
        if not isinstance(logger, logging.Logger):
            continue
        if logger.name == SDK_LOGGER or logger.name.startswith(f"{SDK_LOGGER}."):
            logger.handlers.clear()
            logger.propagate = True
            continue
        logger.setLevel(logging.NOTSET)
        logger.disabled = False
        logger.handlers[:] = [h for h in logger.handlers if not isinstance(h, logging.handlers.QueueHandler)]


def _shared() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _same_from_run_to_run,
    ]


def _same_from_run_to_run(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a library says of an error, without the addresses of its objects."""
    for key, value in event.items():
        # No key comes or goes, and nearly no value changes.
        if isinstance(value, str) and (same := without_addresses(value)) is not value:
            event[key] = same
    return event


def _renderer(as_json: bool, terminal: bool) -> list[Any]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=terminal)]


class LogSettings(Section):
    """Logs, on standard error.

    Attributes:
        level: lowest level that is written: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
        json_lines: `true` for one JSON object a line; by default JSON unless standard error is a terminal.
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    json_lines: bool | None = None
