"""Small Stage-2 servers that keep to their protocols, or break them in one way; each on a port of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_ASKED = 1000
# Closed like this, a connection is reset.
NO_LINGER = struct.pack("ii", 1, 0)
Handler = Callable[["Asked"], bytes | None]


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Fake:
    """A server by hand, which can do on the wire what a framework would not.

    Attributes:
        answer: gives the whole reply, status line and all; None closes the connection.
        before_s: waits so long before it answers.
        bytes_a_second: writes so slowly; 0 at once.
        cut: closes after so many bytes of the reply.
        resets: and does so by a reset of the connection.
        only: paths that end like this get these; all by default.
        images: and requests that have one of these in them; all by default.
    """

    answer: Handler
    before_s: float = 0.0
    bytes_a_second: int = 0
    cut: int | None = None
    resets: bool = False
    only: str = ""
    images: tuple[bytes, ...] = ()
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                # No request begins like this, but a handshake of TLS does.
                if (begin := await reader.readexactly(1)) == b"\x16":
                    return
                head = (begin + await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ")
                self.asked.append(Asked(method, path, headers, body))
                reply = self.answer(self.asked[-1])
                # Those of a server that runs for long would fill the memory.
                del self.asked[:-MOST_ASKED]
                if reply is None:
                    return
                has_image = not self.images or any(image in body for image in self.images)
                if not (path.endswith(self.only) and has_image):
                    writer.write(reply)
                    continue
                await asyncio.sleep(self.before_s)
                await self._write(writer, reply if self.cut is None else reply[: self.cut])
                if self.cut is not None:
                    if self.resets:
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _write(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        if not self.bytes_a_second:
            writer.write(reply)
            await writer.drain()
            return
        for byte in reply:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1 / self.bytes_a_second)

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Fake]:
        server = await asyncio.start_server(self._begin, "127.0.0.1", 0, ssl=tls)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def served(*servers: Fake) -> Iterator[None]:
    """Run servers on a thread of their own, for tests that wait for another process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def run(up: threading.Event, down: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for one in servers:
                await stack.enter_async_context(one.running())
            up.set()
            await down.wait()

    up, down = threading.Event(), asyncio.Event()
    running = asyncio.run_coroutine_threadsafe(run(up, down), loop)
    try:
        while not up.wait(0.1):
            assert not running.done(), running.exception()
        yield
    finally:
        loop.call_soon_threadsafe(down.set)
        running.result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def http(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = {"content-length": str(len(body)), **(headers or {})}
    return "".join([f"HTTP/1.1 {status} .\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n"]).encode() + body


def as_json(content: Any, status: int = 200) -> bytes:
    return http(status, json.dumps(content).encode(), {"content-type": "application/json"})


def files_of(body: bytes, json_length: int) -> list[bytes]:
    """The elements of a BYTES tensor, read by the text of the specification."""
    found, at = [], json_length
    while at < len(body):
        (size,) = struct.unpack_from("<I", body, at)
        found.append(body[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def classifier(
    give: Callable[[bytes], dict[str, np.ndarray]],
    *,
    binary: bool = True,
    version: str = "1",
    kind: str = "BYTES",
    shape: tuple[int, ...] = (-1,),
) -> Handler:
    """An Open Inference Protocol server of one model named `roadwork`.

    Args:
        give: outputs for the content of the input; those of several images are stacked.
        binary: whether tensors go behind the JSON, or in it.
        version: of the model.
        kind: datatype of the input.
        shape: of the input, as it says.
    """

    def answer(asked: Asked) -> bytes:
        model = "/v2/models/roadwork"
        if asked.path == "/v2":
            return as_json({"name": "fake", "extensions": ["binary_tensor_data"] if binary else []})
        if asked.path in {"/v2/health/ready", f"{model}/ready", f"{model}/versions/{version}/ready"}:
            return http(200, b"")
        if asked.path in {model, f"{model}/versions/{version}"}:
            ports = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in give(b"")]
            taken = [{"name": "image", "datatype": kind, "shape": list(shape)}]
            return as_json({"name": "roadwork", "versions": [version], "inputs": taken, "outputs": ports})
        if asked.path not in {f"{model}/infer", f"{model}/versions/{version}/infer"}:
            return as_json({"error": "no such model"}, 404)
        contents = _binary_contents(asked) if binary else _json_contents(asked)
        found = [give(content) for content in contents]
        outputs, tail = [], b""
        for name in found[0]:
            values = found[0][name] if len(found) == 1 else np.stack([one[name] for one in found])
            output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
            if values.dtype == np.int64:
                output["datatype"] = "INT64"
            if binary:
                output["parameters"] = {"binary_data_size": values.nbytes}
                tail += values.tobytes()
            else:
                output["data"] = values.ravel().tolist()
            outputs.append(output)
        reply = json.dumps({"model_name": "roadwork", "model_version": version, "outputs": outputs}).encode()
        return http(200, reply + tail, {"inference-header-content-length": str(len(reply))} if binary else None)

    return answer


def _binary_contents(asked: Asked) -> list[bytes]:
    length = int(asked.headers["inference-header-content-length"])
    [port] = json.loads(asked.body[:length])["inputs"]
    if port["datatype"] == "BYTES":
        return files_of(asked.body, length)
    return _split(asked.body[length:], port["shape"][0])


def _json_contents(asked: Asked) -> list[bytes]:
    [port] = json.loads(asked.body)["inputs"]
    if port["datatype"] == "BYTES":
        return [base64.b64decode(one) for one in port["data"]]
    return _split(bytes(np.uint8(port["data"]).ravel()), port["shape"][0])


def _split(content: bytes, count: int) -> list[bytes]:
    size = len(content) // count
    return [content[at * size : (at + 1) * size] for at in range(count)]


def chat(
    tokens: dict[str, float] | None,
    text: str = "",
    refuses: tuple[str, ...] = (),
    *,
    turned: dict[str, float] | None = None,
    facts: dict[str, Any] | None = None,
    model: str | None = None,
) -> Handler:
    """A chat completions server.

    Args:
        tokens: natural log-probabilities of the first token; None for a server without them.
        text: of the answer.
        refuses: parts of a request that it answers with status 400.
        turned: log-probabilities where the question puts no before yes.
        facts: what it tells of itself, by path.
        model: that it says has answered; the one that was asked for by default.
    """

    def answer(asked: Asked) -> bytes:
        if facts is not None and asked.path in facts:
            return as_json(facts[asked.path])
        if asked.path != "/v1/chat/completions":
            return as_json({"error": "not found"}, 404)
        body = json.loads(asked.body)
        for part in refuses:
            if part in body:
                return as_json({"error": {"message": f"Unrecognized request argument supplied: {part}"}}, 400)
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        said = turned if turned is not None and "no or yes" in asked.body.decode() else tokens
        if said is not None and body.get("logprobs"):
            likely = [{"token": token, "logprob": value} for token, value in said.items()]
            choice["logprobs"] = {"content": [{"token": next(iter(said)), "logprob": 0.0, "top_logprobs": likely}]}
        answered = {"model": model or body["model"], "usage": {"prompt_tokens": 612, "completion_tokens": 1}}
        return as_json({"id": "1", "object": "chat.completion", "choices": [choice], **answered})

    return answer
