"""Classifiers and detectors behind the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from engines.errors import RemoteError
from engines.remote.inference_server import InferenceServer, ModelMetadata, TensorMetadata
from engines.remote.tensors import BYTES, Inference, Tensor, files, pixels
from stage1.errors import Stage1Error
from stage1.preprocess import preprocess
from stage2_bridge.client import ImageRefused, Stage2Error
from stage2_bridge.settings import DetectorServer, KserveServer

Read = Callable[[Inference], float]


class InferenceClient:
    """A Stage-2 that is asked by the Open Inference Protocol.

    Args:
        http: sends the requests; closed with the client.
        settings: of the server.
    """

    def __init__(self, http: httpx2.AsyncClient, settings: KserveServer | DetectorServer) -> None:
        self._http = http
        self._settings = settings
        self._server = InferenceServer(http, settings.url, settings.model, settings.version, binary=settings.binary)
        self._outputs, self._read = _reader(settings)

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return self._settings.name

    async def ask(self, content: bytes, timeout_s: float) -> float:
        """See `Stage2Client.ask`.

        Raises:
            RemoteError: the server did not answer as the protocol says.
            Stage2Error: what it answered is no probability.
            ImageRefused: the image cannot be decoded.
        """
        until = asyncio.get_running_loop().time() + timeout_s
        tensor = await self._tensor(content)
        left = min(self._settings.timeout_s, until - asyncio.get_running_loop().time())
        return self._read(await self._server.infer([tensor], self._outputs, left))

    async def check(self, timeout_s: float) -> str:
        """See `Checked.check`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        await self._server.check_ready(timeout_s)
        found = await self._server.metadata(until - loop.time())
        _check(found, self._settings, self._outputs)
        versions = f", versions {', '.join(found.versions)}" if found.versions else ""
        return f"model {found.name}{versions}{f', {found.platform}' if found.platform else ''}"

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await self._http.aclose()

    async def _tensor(self, content: bytes) -> Tensor:
        settings = self._settings
        if settings.image == "file":
            return files(settings.input, [content])
        try:
            # Tens of milliseconds for a photograph, in which the event loop answers others.
            image = await asyncio.to_thread(preprocess, content, settings.preprocess)
        except Stage1Error as error:
            raise ImageRefused(str(error)) from error
        batch = image[None] if settings.channels == "first" else image.transpose(1, 2, 0)[None]
        return pixels(settings.input, batch)


def _reader(settings: KserveServer | DetectorServer) -> tuple[tuple[str, ...], Read]:
    """The outputs that are asked for, and what makes a probability of them."""
    if isinstance(settings, KserveServer):
        output, reads = settings.output, settings.reads
        return (output,), lambda found: probability_of(found.outputs[output], reads)
    scores, classes = settings.scores, settings.classes
    return (scores, classes), lambda found: box_score(
        found.outputs[scores], found.outputs[classes], settings.roadwork, settings.combine
    )


def probability_of(values: NDArray[Any], reads: str) -> float:
    """The probability of roadwork in the output of a classifier for one image.

    Args:
        values: the output, of any shape: one number, or for `logits` two.
        reads: what it is; see `KserveServer.reads`.

    Raises:
        Stage2Error: it has another size, or is no probability.
    """
    wanted = 2 if reads == "logits" else 1
    if values.size != wanted:
        raise Stage2Error(f"the output has the shape {list(values.shape)}, expected {wanted} of one image for {reads}")
    flat = values.ravel().astype(np.float64)
    if not np.isfinite(flat).all():
        raise Stage2Error(f"the output is {flat.tolist()}, which are no finite numbers")
    if reads == "probability":
        if not 0 <= flat[0] <= 1:
            raise Stage2Error(f"the output is {flat[0]:.6g}, which is no probability; is it a logit?")
        return float(flat[0])
    return float(expit(flat[0] if reads == "logit" else flat[1] - flat[0]))


def box_score(scores: NDArray[Any], classes: NDArray[Any], roadwork: Sequence[int], combine: str) -> float:
    """One score for the boxes of one image.

    Args:
        scores: of each box, in [0, 1]; `(K,)`, or with other axes of one.
        classes: of each box, of the same shape.
        roadwork: classes that count.
        combine: `max`, or `noisy_or`: 1 less the product of what is left to 1, for independent boxes.

    Returns:
        In [0, 1]; 0 without a box that counts.

    Raises:
        Stage2Error: the two do not belong together, or a score is none.
    """
    if scores.shape != classes.shape or scores.size not in {0, max(scores.shape, default=0)}:
        raise Stage2Error(
            f"scores have the shape {list(scores.shape)} and classes {list(classes.shape)}, expected one of each a box"
        )
    found = scores.ravel().astype(np.float64)[np.isin(classes.ravel(), roadwork)]
    if not (np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()):
        raise Stage2Error("the score of a box is not in [0, 1]")
    if not len(found):
        return 0.0
    return float(found.max() if combine == "max" else -math.expm1(np.log1p(-np.minimum(found, 1 - 1e-12)).sum()))


def _check(found: ModelMetadata, settings: KserveServer | DetectorServer, outputs: Sequence[str]) -> None:
    """Whether a model takes and gives what the settings say; one that says nothing of it is taken as it is.

    Raises:
        RemoteError: it does not; says what it has.
    """
    kind = BYTES if settings.image == "file" else "UINT8"
    if found.inputs:
        port = _named(found.inputs, settings.input, "input")
        if port.datatype != kind:
            raise RemoteError(
                f"input {port.name!r} of {found.name} takes {port.datatype}, and image = {settings.image!r} sends "
                f"{kind}"
            )
    for name in outputs if found.outputs else ():
        _named(found.outputs, name, "output")


def _named(ports: Sequence[TensorMetadata], name: str, what: str) -> TensorMetadata:
    for port in ports:
        if port.name == name:
            return port
    raise RemoteError(f"the model has no {what} {name!r}; it has {', '.join(repr(port.name) for port in ports)}")
