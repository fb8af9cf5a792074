"""The server's side of the Open Inference Protocol, version 2, for a model of images: an ASGI application.

It is for those who place and scale engines by something that has no such server of its own, as Ray Serve. Tensors
travel by the binary extension or as JSON, as the request has them.

References:
    KServe, Open Inference Protocol, `inference_rest.md`; Triton Inference Server, `extension_binary_data.md`.
"""

from __future__ import annotations

import json
import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.engine import INPUT
from engines.errors import EngineError
from engines.remote.inference_server import BINARY_EXTENSION, JSON_LENGTH, OCTETS
from engines.remote.tensors import BINARY, SIZE, Many, Name
from engines.remote.tensors import Shape as Axes
from stage1.errors import Stage1Error
from stage1.preprocess import Pixels, Shape

# The longest number of a pixel with what is between two, and everything but the pixels.
JSON_BYTES, BESIDE_BYTES = 8, 2**16

Arrays = dict[str, NDArray[np.float32]]


class ServedModel(Protocol):
    """A model whose versions are bundles.

    Attributes:
        name: of the model.
        platform: what computes it.
        shape: height and width of its images, px.
        outputs: numbers of each image, by output; 1 for a single number.
        max_batch: images of the largest batch.
    """

    name: str
    platform: str
    shape: Shape
    outputs: dict[str, int]
    max_batch: int

    @property
    def versions(self) -> tuple[str, ...]:
        """That can answer, the latest last."""
        ...

    async def infer(self, version: str, images: Pixels) -> Arrays:
        """Outputs by name, for uint8 `(N, 3, H, W)`.

        Raises:
            EngineError: it failed on them.
        """
        ...

    async def load(self) -> None:
        """Bring up what its repository has."""
        ...


class _Refused(EngineError):
    """A request that is answered with an error."""

    def __init__(self, told: str, status: int = 400) -> None:
        super().__init__(told)
        self.status = status


class _Port(BaseModel):
    name: Name
    datatype: Name
    shape: Axes
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: Any = None


class _Wanted(BaseModel):
    name: Name
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Inference(BaseModel):
    inputs: Many[_Port]
    outputs: Many[_Wanted] = ()


def protocol_app(model: ServedModel) -> Starlette:
    """The application of one model.

    Args:
        model: what answers.
    """
    ends = _Endpoints(model)
    place = f"/v2/models/{model.name}"
    routes = [
        Route("/v2", ends.server),
        Route("/v2/health/live", ends.alive),
        Route("/v2/health/ready", ends.ready),
        Route(f"/v2/repository/models/{model.name}/load", ends.load, methods=["POST"]),
    ]
    for one in (place, place + "/versions/{version}"):
        routes += [
            Route(one, ends.metadata),
            Route(f"{one}/ready", ends.ready),
            Route(f"{one}/infer", ends.infer, methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={_Refused: _error})


class _Endpoints:
    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def server(self, _: Request) -> Response:
        return JSONResponse({"name": "streetvision-cascade", "version": "1", "extensions": [BINARY_EXTENSION]})

    async def alive(self, _: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        _version(request, self._model)
        return Response()

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(_metadata(self._model, _version(request, self._model)))

    async def infer(self, request: Request) -> Response:
        model, version = self._model, _version(request, self._model)
        body = await _body(request, _most_bytes(model))
        wanted, images, binary = _read(body, request.headers.get(JSON_LENGTH), model)
        try:
            found = await model.infer(version, images)
        except (EngineError, Stage1Error) as error:
            raise _Refused(str(error), 500) from error
        return _reply(model.name, version, {name: found[name] for name in wanted or found}, binary=binary)

    async def load(self, _: Request) -> Response:
        try:
            await self._model.load()
        except (EngineError, Stage1Error, OSError) as error:
            raise _Refused(str(error)) from error
        return JSONResponse({})


async def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return JSONResponse({"error": str(error)}, error.status)


def _version(request: Request, model: ServedModel) -> str:
    wanted = request.path_params.get("version")
    if not model.versions or (wanted is not None and wanted not in model.versions):
        raise _Refused(f"model {model.name} has no version {wanted or 'at all'}", 404)
    return wanted or model.versions[-1]


def _metadata(model: ServedModel, version: str) -> dict[str, Any]:
    outputs = [
        {"name": name, "datatype": "FP32", "shape": [-1] if numbers == 1 else [-1, numbers]}
        for name, numbers in model.outputs.items()
    ]
    return {
        "name": model.name,
        "versions": [version],
        "platform": model.platform,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, 3, *model.shape]}],
        "outputs": outputs,
    }


def _most_bytes(model: ServedModel) -> int:
    """Of a request: the largest batch as JSON numbers, each with a comma and a space, and what is said of it."""
    return BESIDE_BYTES + JSON_BYTES * model.max_batch * 3 * math.prod(model.shape)


async def _body(request: Request, most_bytes: int) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise _Refused(f"the request is longer than {most_bytes} bytes", 413)
    return b"".join(pieces)


def _read(body: bytes, told: str | None, model: ServedModel) -> tuple[list[str], Pixels, bool]:
    """Names of the outputs that are wanted, the images, and whether the outputs are wanted as bytes."""
    length = len(body) if told is None else int(told) if told.isascii() and told.isdigit() and len(told) < 12 else -1
    if not 0 <= length <= len(body):
        raise _Refused(f"{JSON_LENGTH} is {(told or '')[:20]!r}, and the body has {len(body)} bytes")
    try:
        asked = _Inference.model_validate_json(body[:length])
    except ValidationError as error:
        raise _Refused(f"no request of this protocol: {error.errors(include_url=False)[0]['msg']}") from error
    unknown = [one.name for one in asked.outputs if one.name not in model.outputs]
    if unknown:
        raise _Refused(f"there is no output {unknown[0]!r}; there are {', '.join(model.outputs)}")
    if len(asked.inputs) != 1:
        raise _Refused(f"{len(asked.inputs)} inputs, expected {INPUT}")
    binary = any(one.parameters.get(BINARY) is True for one in asked.outputs)
    return [one.name for one in asked.outputs], _images(asked.inputs[0], body[length:], model), binary


def _images(port: _Port, rest: bytes, model: ServedModel) -> Pixels:
    wanted = (3, *model.shape)
    count = port.shape[0] if port.shape else 0
    if (port.name, port.datatype, port.shape[1:]) != (INPUT, "UINT8", wanted) or not 1 <= count <= model.max_batch:
        raise _Refused(
            f"input {port.name} {port.datatype} {list(port.shape)}, expected {INPUT} UINT8 {[-1, *wanted]} with at "
            f"most {model.max_batch} images"
        )
    size, numbers = port.parameters.get(SIZE), count * math.prod(wanted)
    if size is not None:
        if size != numbers or len(rest) != numbers:
            raise _Refused(f"input {port.name} has {len(rest)} bytes, expected {numbers}")
        return np.frombuffer(rest, np.uint8).reshape(count, *wanted)
    try:
        values = np.asarray(port.data, np.uint8).reshape(count, *wanted)
    except (ValueError, TypeError, OverflowError) as error:
        raise _Refused(f"input {port.name} has other numbers than it says: {error}") from error
    return values


def _reply(name: str, version: str, found: Arrays, *, binary: bool) -> Response:
    outputs, parts = list[dict[str, Any]](), list[bytes]()
    for output, values in found.items():
        told: dict[str, Any] = {"name": output, "datatype": "FP32", "shape": list(values.shape)}
        if binary:
            parts.append(np.ascontiguousarray(values, "<f4").tobytes())
            told["parameters"] = {SIZE: len(parts[-1])}
        else:
            told["data"] = values.ravel().tolist()
        outputs.append(told)
    head = json.dumps({"model_name": name, "model_version": version, "outputs": outputs}).encode()
    if not binary:
        return Response(head, media_type="application/json")
    return Response(b"".join((head, *parts)), media_type=OCTETS, headers={JSON_LENGTH: str(len(head))})
