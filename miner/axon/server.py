"""Runs the axon's application on a port, inside an existing event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from engines.machine.descriptors import descriptor_limit, lacks_descriptors
from engines.machine.tally import Tally
from miner.axon.connections import ConnectionTable
from miner.axon.http_connection import CONNECTION_LOG, HttpConnection
from miner.axon.settings import AxonSettings
from miner.errors import ServerError

log = structlog.get_logger(__name__)

ABORT_S = 1.0
# For bundles, the journal, the chain's worker, Stage-2, and connections that are closing.
OTHER_DESCRIPTORS = 256
# Where the system has no descriptor left, asyncio tries so many connections again at once, and tells of each.
BACKLOG = 128


class AxonServer:
    """Serves one ASGI application; can be started again after it was stopped.

    Args:
        app: the application.
        settings: where to listen.
        name: what the logs and errors call it.
        tally: counts what is refused; one of its own without it.
        share: of the files that the process may open, what this server may use.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: AxonSettings | None = None,
        *,
        name: str = "axon",
        tally: Tally | None = None,
        share: float = 1.0,
    ) -> None:
        self._app = app
        self._name = name
        self._tally = tally or Tally()
        self._share = share
        self._settings = settings or AxonSettings()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._port = self._settings.port

    @property
    def port(self) -> int:
        """The port, once started the one really taken."""
        return self._port

    @property
    def accepting(self) -> bool:
        """Whether it takes connections at this moment."""
        server, serving = self._server, self._serving
        if server is None or serving is None or serving.done() or server.should_exit:
            return False
        return server.started and any(listener.is_serving() for listener in server.servers)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._server is None else len(self._server.server_state.connections)

    async def start(self) -> None:
        """Listen; returns once connections are accepted.

        Raises:
            ServerError: the address cannot be taken, or the server is already running.
        """
        if self._serving is not None:
            raise ServerError(f"the {self._name} already listens on port {self._port}; stop it first")
        listener = bind(self._settings.host, self._settings.port, self._name)
        logging.getLogger(CONNECTION_LOG).addFilter(_demote)
        self._port = listener.getsockname()[1]
        self._server = server = _Server(self._config())
        self._serving = asyncio.create_task(server.serve(sockets=[listener]), name=self._name)
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait([self._serving, listening], return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            listener.close()
            failed, self._serving = self._serving, None
            raise ServerError(f"the {self._name} stopped while starting on port {self._port}") from failed.exception()
        log.info("listening", server=self._name, host=self._settings.host, port=self._port)

    async def wait(self) -> None:
        """Return when the server has ended; raises what ended it, if it was not `stop`."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Stop listening, let requests in flight end, then close every connection.

        Args:
            grace_s: how long to wait for requests in flight, rounded up to whole seconds; then they are cancelled.
        """
        if self._server is None or self._serving is None:
            return
        server, serving = self._server, self._serving
        server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        server.should_exit = True
        try:
            await asyncio.shield(serving)
        finally:
            self._server = self._serving = None
            await _abort(server)
        log.info("stopped_listening", server=self._name, port=self._port)

    def _config(self) -> uvicorn.Config:
        settings = self._settings
        files = descriptor_limit()
        free = max(files - OTHER_DESCRIPTORS, files // 4)
        most = max(1, min(settings.max_connections, int(free * self._share)))
        if most < settings.max_connections:
            log.warning(
                "fewer_connections",
                server=self._name,
                connections=most,
                wanted=settings.max_connections,
                open_files=files,
                remedy="raise the limit of open files (ulimit -n, LimitNOFILE)",
            )
        table = ConnectionTable(
            most, settings.max_connections_per_address, min(settings.reserved_connections, most // 2)
        )
        lingering: set[HttpConnection] = set()
        connection: Callable[..., Any] = partial(
            HttpConnection,
            table=table,
            tally=self._tally,
            lingering=lingering,
            settings=settings,
        )
        return uvicorn.Config(
            self._app,
            http=connection,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self._settings.keep_alive_s,
            backlog=BACKLOG,
        )


def bind(host: str, port: int, name: str = "axon") -> socket.socket:
    """A listening socket; `::` also takes IPv4 where the system can.

    Raises:
        ServerError: what is wrong with the address, and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ServerError(f"the {name} cannot listen on {host} port {port}: {_advice(error, port)}") from error
    # Connections inherit it. asyncio sets it only on listeners it made itself; without it a reply, whose headers and
    # body are two writes, waits 40 ms for the caller's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _advice(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the port is taken, perhaps by another miner; stop it (ss -ltnp 'sport = :{port}') or set another port"
    if error.errno == errno.EACCES:
        return "ports below 1024 need a privilege; set a higher port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has that address; 0.0.0.0 takes all of them"
    return f"{error.strerror or error}; check the host and the port"


def _demote(record: logging.LogRecord) -> bool:
    # What strangers do is told only on request.
    if record.levelno != logging.WARNING:
        return True
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger().isEnabledFor(logging.DEBUG)


async def _abort(server: _Server) -> None:
    # What was cancelled still writes its reply; what does not react is cut off.
    if server.server_state.tasks:
        await asyncio.wait(list(server.server_state.tasks), timeout=ABORT_S)
    for connection in list(server.server_state.connections):
        connection.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Signals belong to the process, and the axon is only a part of it.
        yield


def tell_failure(tally: Tally, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler of an event loop, for what fails outside any task.

    Where the process has no descriptor left, asyncio tells of it thousands of times a second, and of a fault in a
    callback with every connection; here once a minute.

    Args:
        tally: counts it.
        loop: the loop.
        context: what asyncio knows of the failure.
    """
    error = context.get("exception")
    if lacks_descriptors(error):
        tally.add("descriptors", "the process has no file descriptor left for a new connection; raise its limit")
        return
    if loop.get_debug():
        loop.default_exception_handler(context)
    tally.add("fault", str(context.get("message", "a callback failed")), error=error)
