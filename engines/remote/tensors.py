"""Tensors of the Open Inference Protocol, version 2, as bytes: a request's body, and what a reply says.

Tensors travel behind the JSON of a request or a reply, by the binary extension, where a server has it: a picture as
JSON numbers is four times as long and takes milliseconds to read. Other servers get files in base64, as MLServer reads
them. A reply may have its numbers either way.

References:
    KServe, Open Inference Protocol, `inference_rest.md`; Triton Inference Server, `extension_binary_data.md`.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from engines.errors import RemoteError

BYTES = "BYTES"
NUMBERS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
# Detectors of many thousand boxes have less.
MOST_NUMBERS = 4_000_000
# No array of numpy had more before its version 2.
MOST_AXES = 32
LENGTH_BYTES = 4
BINARY, SIZE = "binary_data", "binary_data_size"

T = TypeVar("T")
# Of what others send: each wrong item would be an error of its own, a kB for two bytes.
Many = Annotated[tuple[T, ...], Field(fail_fast=True)]
Shape = Annotated[tuple[int, ...], Field(fail_fast=True, max_length=MOST_AXES)]
# Errors name it, and this many.
MOST_TOLD = 20
Name = Annotated[str, Field(max_length=256)]


@dataclass(frozen=True)
class Tensor:
    """An input.

    Attributes:
        name: of the model's input.
        datatype: as the protocol calls it.
        shape: of the tensor.
        elements: for BYTES its elements in C order, and otherwise all its bytes, little-endian, as the only one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: tuple[bytes, ...]

    @property
    def binary(self) -> bytes:
        """As the binary extension has it."""
        if self.datatype != BYTES:
            return self.elements[0]
        return b"".join(part for one in self.elements for part in (len(one).to_bytes(LENGTH_BYTES, "little"), one))

    @property
    def as_json(self) -> bytes:
        """As the JSON has it: a list of files in base64, or of numbers."""
        if self.datatype == BYTES:
            return b"[%s]" % b", ".join(b'"%s"' % binascii.b2a_base64(one, newline=False) for one in self.elements)
        kind = np.dtype(NUMBERS[self.datatype]).newbyteorder("<")
        return json.dumps(np.frombuffer(self.elements[0], kind).tolist()).encode()


def files(name: str, contents: Sequence[bytes], shape: tuple[int, ...] | None = None) -> Tensor:
    """Encoded images as an input of the type BYTES.

    Args:
        name: of the input.
        contents: the files.
        shape: of the tensor; `(N,)` by default.
    """
    return Tensor(name, BYTES, shape or (len(contents),), tuple(contents))


def pixels(name: str, images: NDArray[np.uint8]) -> Tensor:
    """Images as an input of the type UINT8.

    Args:
        name: of the input.
        images: of any shape.
    """
    return Tensor(name, "UINT8", images.shape, (np.ascontiguousarray(images).tobytes(),))


def request_body(inputs: Sequence[Tensor], outputs: Sequence[str], *, binary: bool) -> tuple[bytes, int | None]:
    """The body of a request, and the length of the JSON that it begins with; None if it is all of it.

    Args:
        inputs: of the model.
        outputs: names of the outputs that are wanted.
        binary: whether the server has the binary extension.
    """
    if not binary:
        # Put together by hand, for `json` looks at each character of an image for one to escape.
        sent = b", ".join(
            b'%s, "data": %s}' % (_opened(one.name, one.datatype, one.shape), one.as_json) for one in inputs
        )
        return b'{"inputs": [%s], "outputs": %s}' % (sent, _wanted(tuple(outputs))), None
    parts = [one.binary for one in inputs]
    sized = [_described(one) | {"parameters": {SIZE: len(part)}} for one, part in zip(inputs, parts, strict=True)]
    wanted = [{"name": name, "parameters": {BINARY: True}} for name in outputs]
    text = json.dumps({"inputs": sized, "outputs": wanted}).encode()
    return text + b"".join(parts), len(text)


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


@lru_cache(maxsize=256)
def _opened(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """The JSON of an input without its data, up to its closing brace."""
    about: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
    if datatype == BYTES:
        about["parameters"] = {"content_type": "base64"}
    return json.dumps(about).encode().removesuffix(b"}")


@lru_cache(maxsize=256)
def _wanted(outputs: tuple[str, ...]) -> bytes:
    return json.dumps([{"name": name} for name in outputs]).encode()


class _Output(BaseModel):
    name: Name
    datatype: Name
    shape: Shape
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: Any = None


class _Reply(BaseModel):
    model_name: str = ""
    model_version: Name | None = None
    outputs: Many[_Output]


@dataclass(frozen=True)
class Inference:
    """What a model answered.

    Attributes:
        model_version: as the server names it; empty if it does not.
        outputs: numbers of each output that was asked for, by name.
    """

    model_version: str
    outputs: dict[str, NDArray[Any]]


def read_reply(content: bytes, json_length: int | None, wanted: Sequence[str]) -> Inference:
    """Read the reply of a model.

    Args:
        content: the body.
        json_length: of the JSON that it begins with; None if it is all of it.
        wanted: names of the outputs that were asked for; others are passed over.

    Raises:
        RemoteError: it is no reply, an output is missing, or one is not what it says.
    """
    length = len(content) if json_length is None else json_length
    if not 0 <= length <= len(content):
        raise RemoteError(f"a reply of {len(content)} bytes says that its JSON has {length}")
    try:
        reply = _Reply.model_validate_json(content[:length])
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the body"
        raise RemoteError(f"the reply is none of the Open Inference Protocol: {where}: {problem['msg']}") from error
    found, at = {}, length
    for output in reply.outputs:
        size = output.parameters.get(SIZE)
        part = None
        if size is not None:
            if not isinstance(size, int) or size < 0 or at + size > len(content):
                raise RemoteError(
                    f"output {output.name!r} says that it has {str(size)[:20]} bytes, and they are not there"
                )
            part, at = content[at : at + size], at + size
        if output.name in wanted:
            found[output.name] = _numbers(output, part)
    missing = [name for name in wanted if name not in found]
    if missing:
        given = ", ".join(repr(output.name) for output in reply.outputs[:MOST_TOLD]) or "none"
        raise RemoteError(f"the reply has no output {missing[0]!r}; it has {given}")
    return Inference(reply.model_version or "", found)


def _numbers(output: _Output, part: bytes | None) -> NDArray[Any]:
    kind = NUMBERS.get(output.datatype)
    if kind is None:
        raise RemoteError(f"output {output.name!r} is {output.datatype}, expected numbers")
    # The sides before their product, which could have a million digits.
    if not all(0 <= side <= MOST_NUMBERS for side in output.shape) or math.prod(output.shape) > MOST_NUMBERS:
        raise RemoteError(f"output {output.name!r} has the shape {str(list(output.shape))[:100]}")
    try:
        values: NDArray[Any]
        if part is None:
            values = np.asarray(output.data, kind).ravel()
        else:
            values = np.frombuffer(part, np.dtype(kind).newbyteorder("<")).astype(kind)
        return values.reshape(output.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise RemoteError(
            f"output {output.name!r} is not the {output.datatype} of shape {list(output.shape)} that it says"
        ) from error
