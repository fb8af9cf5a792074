"""Callers of a miner: signed requests, connections that say nothing, pictures that cost much."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from benchmarks.faults.running import Miner

EMPTY_HASH = hashlib.sha3_256(b"").hexdigest()
# Of each caller, all of them on loopback.
ADDRESSES = {"validator": "127.0.0.2", "low": "127.0.0.3", "stranger": "127.0.0.4", "probe": "127.0.0.9"}
ROUTE = "/ImageSynapse"


@dataclass(frozen=True)
class Reply:
    """What a caller got; status 0 is a connection that failed."""

    status: int
    content: Any
    seconds: float

    @property
    def is_answer(self) -> bool:
        """A prediction that is not the fallback."""
        return self.status == 200 and self.content.get("prediction") != 0.5


def headers_of(
    miner: Miner, caller: str = "validator", *, age_s: float = 0.0, timeout_s: float = 9.0
) -> dict[str, str]:
    """The signed headers of one request."""
    key, receiver = miner.tree.wallets[caller].hotkey, miner.tree.address("miner")
    nonce, uuid = time.time_ns() - int(age_s * 1e9), f"faults-{caller}"
    message = f"{nonce}.{key.ss58_address}.{receiver}.{uuid}.{EMPTY_HASH}"
    return {
        "Content-Type": "application/json",
        "name": "ImageSynapse",
        "timeout": str(timeout_s),
        "computed_body_hash": EMPTY_HASH,
        "bt_header_axon_ip": "127.0.0.1",
        "bt_header_axon_port": str(miner.port),
        "bt_header_axon_hotkey": receiver,
        "bt_header_dendrite_ip": "127.0.0.1",
        "bt_header_dendrite_version": "10005000",
        "bt_header_dendrite_nonce": str(nonce),
        "bt_header_dendrite_uuid": uuid,
        "bt_header_dendrite_hotkey": key.ss58_address,
        "bt_header_dendrite_signature": "0x" + key.sign(message).hex(),
    }


@lru_cache
def picture(colour: tuple[int, int, int] = (200, 200, 0), side: int = 224, kind: str = "JPEG", **how: Any) -> bytes:
    """One colour in a file."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind, **how)
    return file.getvalue()


def one_bit(side: int) -> bytes:
    """A square of black in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def body_of(content: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(content).decode(), "prediction": -1.0}).encode()


def post(
    miner: Miner, headers: Mapping[str, str], body: bytes, *, source: str = "validator", limit_s: float = 20.0
) -> Reply:
    """Send one request over a connection of its own."""
    started = time.monotonic()
    where = (ADDRESSES.get(source, source), 0)
    connection = http.client.HTTPConnection("127.0.0.1", miner.port, timeout=limit_s, source_address=where)
    try:
        connection.request("POST", ROUTE, body, dict(headers))
        reply = connection.getresponse()
        status, content = reply.status, reply.read()
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, repr(error), time.monotonic() - started)
    finally:
        connection.close()
    try:
        return Reply(status, json.loads(content), time.monotonic() - started)
    except ValueError:
        return Reply(status, content[:200], time.monotonic() - started)


def ask(miner: Miner, caller: str = "validator", content: bytes | None = None, **how: Any) -> Reply:
    """Ask for one picture, as a validator does."""
    return post(
        miner, headers_of(miner, caller, **how), body_of(picture() if content is None else content), source=caller
    )


def ask_many(miner: Miner, caller: str, content: bytes, count: int, *, at_once: int | None = None) -> list[Reply]:
    with ThreadPoolExecutor(at_once or count) as pool:
        return list(pool.map(lambda _: ask(miner, caller, content), range(count)))


@contextlib.contextmanager
def crowd(miner: Miner, count: int, addresses: list[str], say: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that stay, and say no more than this."""
    held: list[socket.socket] = []
    try:
        for number in range(count):
            one = socket.socket()
            one.settimeout(5)
            one.bind((addresses[number % len(addresses)], 0))
            held.append(one)
            with contextlib.suppress(OSError):
                one.connect(("127.0.0.1", miner.port))
                if say:
                    one.sendall(say)
        yield held
    finally:
        for one in held:
            one.close()


def raw_request(headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request whose body of this length never comes."""
    lines = [f"POST {ROUTE} HTTP/1.1", "host: axon", f"content-length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


@contextlib.contextmanager
def probed(miner: Miner) -> Iterator[list[float]]:
    """Seconds of each of many small requests, one after another, that the miner refuses at once."""
    stop, took = threading.Event(), [0.0]

    def probe() -> None:
        while not stop.is_set():
            started = time.monotonic()
            connection = http.client.HTTPConnection(
                "127.0.0.1", miner.port, timeout=20, source_address=(ADDRESSES["probe"], 0)
            )
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/")
                connection.getresponse().read()
            connection.close()
            took.append(time.monotonic() - started)
            stop.wait(0.02)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()
