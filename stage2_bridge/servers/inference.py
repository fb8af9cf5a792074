"""Classifiers and detectors behind the Open Inference Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import RemoteError
from engines.remote.http import Client
from engines.remote.inference_server import InferenceServer, ModelMetadata, TensorMetadata
from engines.remote.tensors import BYTES, Tensor, files, pixels
from stage1.errors import Stage1Error
from stage1.preprocess import preprocess
from stage2_bridge.client import REFUSED, ImageRefused, ServerIdentity, Stage2Error
from stage2_bridge.sample_image import black_image, noise_image
from stage2_bridge.servers.outputs import box_score, of_each, probability_of
from stage2_bridge.servers.shared_calls import Answer, SharedCalls
from stage2_bridge.settings import DetectorServer, KserveServer

Read = Callable[[dict[str, NDArray[Any]]], float]
Image = bytes | NDArray[np.uint8]
# Of replies to a call of several images, those that one of them may have brought about.
ONE_TO_BLAME = REFUSED | {500}
# Between an image alone and in company, in units of the probability; half precision has less.
SAME = 5e-3


class InferenceClient:
    """A Stage-2 that is asked by the Open Inference Protocol.

    Args:
        http: sends the requests; closed with the client.
        settings: of the server.
    """

    def __init__(self, http: Client, settings: KserveServer | DetectorServer) -> None:
        self._http = http
        self._settings = settings
        self._server = InferenceServer(http, settings.url, settings.model, settings.version, binary=settings.binary)
        self._outputs, self._read = _reader(settings)
        self._calls = SharedCalls(self._infer, calls=settings.connections, most=settings.max_batch)
        self._rank: int | None = None

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
        image = await self._prepared(content)
        left = min(self._settings.timeout_s, until - asyncio.get_running_loop().time())
        if self._settings.max_batch > 1:
            return await self._calls.ask(image, left)
        return _given((await self._infer([image], left))[0])

    async def check(self, timeout_s: float) -> str:
        """See `Checked.check`: asks for two pictures of nothing as well, alone and, where that is set, in one call."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        await self._server.check_ready(timeout_s)
        found = await self._about(until - loop.time())
        _check(found, self._settings, self._outputs)
        images = [await self._prepared(one) for one in (black_image(), noise_image())]
        alone = [_given((await self._infer([one], until - loop.time()))[0]) for one in images]
        told = ""
        if self._settings.max_batch > 1:
            together = [_given(one) for one in await self._infer(images, until - loop.time(), apart=False)]
            if max(abs(one - other) for one, other in zip(alone, together, strict=True)) > SAME:
                raise Stage2Error(
                    f"two images answered {alone} each alone and {together} in one call: set max_batch = 1"
                )
            told = f", up to {self._settings.max_batch} images in a call"
        versions = f", versions {', '.join(found.versions)}" if found.versions else ""
        return f"model {found.name}{versions}{f', {found.platform}' if found.platform else ''}{told}"

    async def identity(self, timeout_s: float) -> ServerIdentity:
        """See `Checked.identity`: the version is that which answers an image, or the one that is set."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        settings = self._settings
        found = await self._about(timeout_s)
        image = await self._prepared(black_image())
        reply = await self._server.infer([self._tensor([image])], self._outputs, until - loop.time())
        reads = {"kind", "input", "image", "channels", "output", "reads", "scores", "classes", "roadwork", "combine"}
        moves = settings.model_dump(mode="json", include=reads)
        if settings.image == "pixels":
            moves["preprocess"] = settings.preprocess.sha256
        ports = [one.model_dump(mode="json") for one in (*found.inputs, *found.outputs)]
        return ServerIdentity.made(
            moves.pop("kind"),
            settings.name,
            found.name,
            reply.model_version or settings.version or "",
            platform=found.platform,
            ports=ports,
            **moves,
        )

    async def probe(self, timeout_s: float) -> None:
        """See `Probed.probe`: server and model say whether they are ready."""
        await self._server.check_ready(timeout_s)

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await self._calls.close()
        await self._http.aclose()

    async def _about(self, timeout_s: float) -> ModelMetadata:
        found = await self._server.metadata(timeout_s)
        self._rank = next((len(one.shape) for one in found.inputs if one.name == self._settings.input), 1)
        return found

    async def _prepared(self, content: bytes) -> Image:
        settings = self._settings
        if settings.image == "file":
            return content
        try:
            # Tens of milliseconds for a photograph, in which the event loop answers others.
            image = await asyncio.to_thread(preprocess, content, settings.preprocess)
        except Stage1Error as error:
            raise ImageRefused(str(error)) from error
        return image if settings.channels == "first" else image.transpose(1, 2, 0)

    async def _infer(self, images: Sequence[Image], timeout_s: float, *, apart: bool = True) -> list[Answer]:
        """One call; if it fails and one image may have brought that about, each is asked about alone."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            reply = await self._server.infer([self._tensor(images)], self._outputs, timeout_s)
        except RemoteError as error:
            if error.status == 400 and await self._learned_another_rank(until - loop.time()):
                return await self._infer(images, until - loop.time(), apart=apart)
            if len(images) == 1 or error.status not in ONE_TO_BLAME or not apart:
                raise
            each = (self._infer([one], until - loop.time()) for one in images)
            found = await asyncio.gather(*each, return_exceptions=True)
            return [_answer(one) for one in found]
        return [_read(self._read, one) for one in of_each(reply.outputs, len(images))]

    async def _learned_another_rank(self, timeout_s: float) -> bool:
        """Whether files have to go in another shape than the `(N,)` that they went in; asked once."""
        if self._rank is not None or self._settings.image != "file":
            return False
        try:
            await self._about(timeout_s)
        except RemoteError:
            return False
        return self._rank != 1

    def _tensor(self, images: Sequence[Image]) -> Tensor:
        if self._settings.image == "pixels":
            return pixels(self._settings.input, np.stack(cast("Sequence[NDArray[np.uint8]]", images)))
        shape = (len(images), *[1] * ((self._rank or 1) - 1))
        return files(self._settings.input, cast("Sequence[bytes]", images), shape)


def _read(read: Read, outputs: dict[str, NDArray[Any]]) -> Answer:
    try:
        return read(outputs)
    except Stage2Error as error:
        return error


def _answer(found: list[Answer] | BaseException) -> Answer:
    if isinstance(found, RemoteError | Stage2Error):
        return found
    if isinstance(found, BaseException):
        raise found
    return found[0]


def _given(answer: Answer) -> float:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reader(settings: KserveServer | DetectorServer) -> tuple[tuple[str, ...], Read]:
    """The outputs that are asked for, and what makes a probability of them."""
    if isinstance(settings, KserveServer):
        output, reads = settings.output, settings.reads
        return (output,), lambda found: probability_of(found[output], reads)
    scores, classes = settings.scores, settings.classes
    return (scores, classes), lambda found: box_score(
        found[scores], found[classes], settings.roadwork, settings.combine
    )


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
