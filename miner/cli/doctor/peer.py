"""`cascade doctor --peer`: another miner's axon, asked from here without a signature, which it has to refuse."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx2

from miner.axon.wires.open_wire import open_wire
from miner.chain.port import AxonAddress, ChainSnapshot
from miner.cli.doctor.chain import read_chain
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.settings import MinerSettings
from stage1.errors import SettingsError

WAIT_S, SLOW_S, TIMES = 9.0, 1.0, 5
DEFAULT_PORT = 8091
REFUSALS = frozenset({400, 401, 403})
BUSY = frozenset({429, 503})


@dataclass(frozen=True)
class Peer:
    """Where another miner's axon is.

    Attributes:
        scheme: `http` or `https`.
        host: a name or an address.
        port: TCP port.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @classmethod
    def of(cls, text: str) -> Peer:
        """From an address as a person gives it: `http://203.0.113.7:8091`, or without the scheme.

        Raises:
            SettingsError: it is none.
        """
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in {"http", "https"}:
            raise SettingsError(f"--peer {text!r} is no address: give http://ADDRESS:PORT, as the chain has it")
        return cls(parts.scheme, host, port or DEFAULT_PORT)


async def examine_peer(peer: Peer, settings: MinerSettings) -> list[Finding]:
    """Everything that one machine can learn of another one's axon.

    Args:
        peer: where it is.
        settings: of this machine, for the chain and the wire.
    """
    resolved = await _resolved(peer)
    if isinstance(resolved, Finding):
        return [resolved]
    chain = asyncio.create_task(_on_chain(resolved, peer, settings))
    try:
        connected = await _connected(peer)
        found = [connected]
        if not connected.failed:
            found += await _asked(peer, settings)
        return [*found, await chain]
    finally:
        chain.cancel()


async def _resolved(peer: Peer) -> set[str] | Finding:
    """Addresses of the host."""
    try:
        told = await asyncio.get_running_loop().getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except OSError as failed:
        return error("connect", f"{peer.host}: no such host ({failed.strerror})", "give the address that the chain has")
    return {str(place[0]) for *_, place in told}


async def _connected(peer: Peer) -> Finding:
    times = []
    for _ in range(TIMES):
        started = time.perf_counter()
        try:
            async with asyncio.timeout(WAIT_S):
                _, writer = await asyncio.open_connection(peer.host, peer.port)
        except TimeoutError:
            todo = "a firewall drops it: open the port there, and forward it on its router"
            return error("connect", f"{peer}: no answer within {WAIT_S:g} s", todo)
        except OSError as failed:
            # Of several addresses that failed, or of one, in the words of the system.
            why = os.strerror(failed.errno) if failed.errno else type(failed).__name__
            todo = "nothing listens there, or a firewall refuses: start the miner there, and open its port"
            return error("connect", f"{peer}: {why}", todo)
        times.append(time.perf_counter() - started)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    told = f"{peer}: {median(times) * 1e3:.0f} ms to connect, median of {TIMES}"
    if median(times) > SLOW_S:
        return warning("connect", told, "validators are as far away, or farther: look at the network there")
    return ok("connect", told)


async def _asked(peer: Peer, settings: MinerSettings) -> list[Finding]:
    """What it answers to a look, and to a request that nobody has signed."""
    path = open_wire("", settings.wire, age_s=lambda: 0.0).paths[0]
    async with httpx2.AsyncClient(base_url=str(peer), timeout=WAIT_S, verify=False) as client:
        try:
            started = time.perf_counter()
            looked = await _begun(client, "GET", "/")
            look_ms = (time.perf_counter() - started) * 1e3
            refused = await _begun(client, "POST", path, json={"image": ""}, headers={"name": path.strip("/")})
        except (httpx2.HTTPError, TimeoutError) as failed:
            detail = f"it accepts connections and does not speak HTTP: {type(failed).__name__}"
            return [error("http", detail, "something else listens on the port, or a proxy stands before it")]
    return [
        shape(looked.status_code, looked.headers.get("content-type", ""), look_ms),
        refusal(refused.status_code, path),
    ]


async def _begun(client: httpx2.AsyncClient, method: str, path: str, **content: Any) -> httpx2.Response:  # noqa: ANN401
    """An answer without its body, which may have no end.

    Raises:
        TimeoutError: it does not begin in time; the client's own limit is one for each part of it.
    """
    async with asyncio.timeout(WAIT_S), client.stream(method, path, **content) as reply:
        return reply


def shape(status: int, kind: str, milliseconds: float) -> Finding:
    """Whether the answer to `GET /` is that of an axon, which knows no such page and says so in JSON."""
    told = f"GET / is answered with {status}, {kind.partition(';')[0] or 'without a type'}, in {milliseconds:.0f} ms"
    if status in BUSY:
        return warning("http", told, "it has no place for one more connection: see its log")
    if status == httpx2.codes.NOT_FOUND and kind.startswith("application/json"):
        return ok("http", told)
    todo = "an axon answers 404 in JSON: see what listens there, or what stands before it"
    return warning("http", told, todo)


def refusal(status: int, path: str) -> Finding:
    """Whether a request that nobody has signed is refused."""
    told = f"an unsigned POST {path} is answered with {status}"
    if status in REFUSALS:
        return ok("unsigned", f"{told}, as it must be")
    if status == httpx2.codes.OK:
        todo = "it takes anybody for a validator, as bittensor before 10.5 does: update it"
        return warning("unsigned", told, todo)
    if status in BUSY:
        return warning("unsigned", told, "it is busy, or this address asks too often: try again later")
    if status == httpx2.codes.NOT_FOUND:
        return error("unsigned", f"{told}: it serves no such route", "see wire.module there, and that it is an axon")
    return warning("unsigned", told, "a request without a signature should be refused with 401: see its log")


async def _on_chain(resolved: set[str], peer: Peer, settings: MinerSettings) -> Finding:
    read = await read_chain(settings)
    return read if isinstance(read, Finding) else known(read.snapshot, resolved, peer.port)


def known(snapshot: ChainSnapshot, resolved: set[str], port: int) -> Finding:
    """What the chain says of whoever has published an address.

    Args:
        snapshot: the subnet.
        resolved: addresses of the host.
        port: TCP port.
    """
    wanted = {AxonAddress(ip, port) for ip in resolved}
    found = {hotkey: neuron for hotkey, neuron in snapshot.neurons.items() if neuron.axon in wanted}
    if not found:
        same = [n.axon.port for n in snapshot.neurons.values() if n.axon is not None and n.axon.ip in resolved]
        told = f"no hotkey of the subnet says that it is at {', '.join(map(str, sorted(wanted)))}"
        if same:
            told += (
                f"; at this address the chain has the port{'s' if len(same) > 1 else ''} {', '.join(map(str, same))}"
            )
        return warning("on chain", told, "validators do not come here: see chain.external_ip and external_port there")
    told = "; ".join(
        f"uid {neuron.uid}, hotkey {hotkey}"
        + ("" if neuron.incentive is None else f", incentive {neuron.incentive:.4f}")
        for hotkey, neuron in found.items()
    )
    return ok("on chain", f"{told}, at block {snapshot.block}")
