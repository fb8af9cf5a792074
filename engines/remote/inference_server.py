"""A server that speaks the Open Inference Protocol, version 2: Triton, MLServer, KServe, OpenVINO Model Server.

Reference:
    KServe, Open Inference Protocol, `inference_rest.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, Field, ValidationError

from engines.errors import RemoteError
from engines.remote import http as remote
from engines.remote.tensors import Inference, Tensor, read_reply, request_body

BINARY_EXTENSION = "binary_tensor_data"
JSON_LENGTH = "inference-header-content-length"
OCTETS = "application/octet-stream"
# A millisecond of JSON, or of copied memory; what takes longer has a thread, and the event loop answers others.
JSON_AT_ONCE_BYTES, BINARY_AT_ONCE_BYTES = 2**16, 2**21


class TensorMetadata(BaseModel):
    """What a model says of an input or an output.

    Attributes:
        name: of it.
        datatype: as the protocol calls it.
        shape: of it; -1 where any size goes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()


class ModelMetadata(BaseModel):
    """What a model says of itself.

    Attributes:
        name: of the model.
        versions: that the server has.
        platform: what runs it.
        inputs: what it takes.
        outputs: what it gives.
    """

    name: str
    versions: tuple[str, ...] = ()
    platform: str = ""
    inputs: tuple[TensorMetadata, ...] = Field(default=())
    outputs: tuple[TensorMetadata, ...] = Field(default=())


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
        client: httpx2.AsyncClient,
        url: str,
        model: str,
        version: str | None = None,
        *,
        binary: bool | None = None,
    ) -> None:
        self._binary = binary
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
        reply = await remote.ask(self._client, "GET", self._model, timeout_s=timeout_s)
        try:
            return ModelMetadata.model_validate_json(reply.content)
        except ValidationError as error:
            raise RemoteError(
                f"{self._model}: the reply is no metadata of a model: {error.errors()[0]['msg']}"
            ) from error

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str], timeout_s: float) -> Inference:
        """Have the model compute.

        Args:
            inputs: what it takes.
            outputs: names of what is wanted of it.
            timeout_s: for the whole call.

        Raises:
            RemoteError: no reply in time, or it is not what the protocol or the names promise.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        if self._binary is None:
            self._binary = await self._has_binary_extension(timeout_s)
        size = sum(len(element) for one in inputs for element in one.elements)
        if size <= (BINARY_AT_ONCE_BYTES if self._binary else JSON_AT_ONCE_BYTES):
            body, length = request_body(inputs, outputs, binary=self._binary)
        else:
            body, length = await asyncio.to_thread(request_body, inputs, outputs, binary=self._binary)
        headers = {"content-type": "application/json"} if length is None else _binary_headers(length)
        reply = await remote.ask(
            self._client, "POST", f"{self._model}/infer", timeout_s=until - loop.time(), content=body, headers=headers
        )
        told = reply.headers.get(JSON_LENGTH)
        if told is not None and not (told.isascii() and told.isdigit() and len(told) <= 9):
            raise RemoteError(f"{self._model}: the header {JSON_LENGTH} is {told[:20]!r}")
        json_length = None if told is None else int(told)
        if len(reply.content) <= JSON_AT_ONCE_BYTES:
            return read_reply(reply.content, json_length, outputs)
        return await asyncio.to_thread(read_reply, reply.content, json_length, outputs)

    async def _has_binary_extension(self, timeout_s: float) -> bool:
        reply = await remote.ask(self._client, "GET", f"{self._url}/v2", timeout_s=timeout_s)
        try:
            return BINARY_EXTENSION in _ServerMetadata.model_validate_json(reply.content).extensions
        except ValidationError as error:
            raise RemoteError(f"{self._url}/v2: the reply is no metadata of a server") from error


class _ServerMetadata(BaseModel):
    extensions: tuple[str, ...] = ()


def _binary_headers(json_length: int) -> dict[str, str]:
    return {"content-type": OCTETS, JSON_LENGTH: str(json_length)}
