"""A server that speaks the Open Inference Protocol, version 2: Triton, MLServer, KServe, OpenVINO Model Server.

Reference:
    KServe, Open Inference Protocol, `inference_rest.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

from pydantic import BaseModel, Field

from engines.errors import RemoteError
from engines.remote import http as remote
from engines.remote.http import JSON_AT_ONCE_BYTES, made
from engines.remote.tensors import Inference, Many, Name, Shape, Tensor, read_reply, request_body

BINARY_EXTENSION = "binary_tensor_data"
JSON_LENGTH = "inference-header-content-length"
# What a model says of itself has some kB.
METADATA_BYTES = 2**20
OCTETS = "application/octet-stream"
# A millisecond of copied memory.
BINARY_AT_ONCE_BYTES = 2**21


class TensorMetadata(BaseModel):
    """What a model says of an input or an output.

    Attributes:
        name: of it.
        datatype: as the protocol calls it.
        shape: of it; -1 where any size goes.
    """

    name: Name
    datatype: Name
    shape: Shape = ()


class ModelMetadata(BaseModel):
    """What a model says of itself.

    Attributes:
        name: of the model.
        versions: that the server has.
        platform: what runs it.
        inputs: what it takes.
        outputs: what it gives.
    """

    name: Name
    versions: Many[Name] = ()
    platform: Name = ""
    inputs: Many[TensorMetadata] = Field(default=())
    outputs: Many[TensorMetadata] = Field(default=())


class InferenceServer:
    """One model of one server.

    Args:
        client: sends the requests; whoever made it closes it.
        url: of the server, without a path.
        model: its name there.
        version: of the model; None leaves the choice to the server.
        binary: whether it has the binary extension; None asks it.
    """

    def __init__(
        self,
        client: remote.Client,
        url: str,
        model: str,
        version: str | None = None,
        *,
        binary: bool | None = None,
    ) -> None:
        self._binary = binary
        self._version = version
        self._client = client
        self._url = url.rstrip("/")
        chosen = "" if version is None else f"/versions/{quote(version, safe='')}"
        self._model = f"{self._url}/v2/models/{quote(model, safe='')}{chosen}"

    async def check_ready(self, timeout_s: float) -> None:
        """Ask whether the server is ready, and then whether the model is.

        Args:
            timeout_s: for both together.

        Raises:
            RemoteError: one of them is not, or there is no reply.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        await remote.ask(self._client, "GET", f"{self._url}/v2/health/ready", timeout_s=timeout_s)
        await remote.ask(self._client, "GET", f"{self._model}/ready", timeout_s=until - loop.time())

    async def metadata(self, timeout_s: float) -> ModelMetadata:
        """What the model says of itself.

        Raises:
            RemoteError: there is no reply, or it is no metadata.
        """
        reply = await remote.ask(self._client, "GET", self._model, timeout_s=timeout_s, most_bytes=METADATA_BYTES)
        return reply.read(ModelMetadata, f"{self._model}: the reply is no metadata of a model")

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str], timeout_s: float) -> Inference:
        """Have the model compute.

        Args:
            inputs: what it takes.
            outputs: names of what is wanted of it.
            timeout_s: for the whole call.

        Raises:
            RemoteError: no reply in time, it is not what the protocol or the names promise, or another version than
                the pinned one gave it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        if self._binary is None:
            self._binary = await self._has_binary_extension(timeout_s)
        size = sum(len(element) for one in inputs for element in one.elements)
        at_once = BINARY_AT_ONCE_BYTES if self._binary else JSON_AT_ONCE_BYTES
        body, length = await made(partial(request_body, inputs, outputs, binary=self._binary), size, at_once)
        headers = {"content-type": "application/json"} if length is None else _binary_headers(length)
        reply = await remote.ask(
            self._client, "POST", f"{self._model}/infer", timeout_s=until - loop.time(), content=body, headers=headers
        )
        told = reply.headers.get(JSON_LENGTH)
        if told is not None and not (told.isascii() and told.isdigit() and len(told) <= 9):
            raise RemoteError(f"{self._model}: the header {JSON_LENGTH} is {told[:20]!r}")
        json_length = None if told is None else int(told)
        read = partial(read_reply, reply.content, json_length, outputs)
        found = await made(read, len(reply.content), JSON_AT_ONCE_BYTES)
        if self._version is not None and found.model_version not in {"", self._version}:
            raise RemoteError(f"{self._model}: version {found.model_version} answered, asked for {self._version}")
        return found

    async def _has_binary_extension(self, timeout_s: float) -> bool:
        reply = await remote.ask(self._client, "GET", f"{self._url}/v2", timeout_s=timeout_s, most_bytes=METADATA_BYTES)
        told = f"{self._url}/v2: the reply is no metadata of a server"
        return BINARY_EXTENSION in reply.read(_ServerMetadata, told).extensions


class _ServerMetadata(BaseModel):
    extensions: Many[str] = ()


def _binary_headers(json_length: int) -> dict[str, str]:
    return {"content-type": OCTETS, JSON_LENGTH: str(json_length)}
