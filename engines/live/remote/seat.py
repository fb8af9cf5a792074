"""One server for one bundle: whether it may answer, and its answers.

A server may answer only after the golden images of the bundle have come back from it as they are stored, at every size
of batch. It loses that with the first failure, and has to show it all again. One that was only too slow may answer
again after a single image, for it has computed nothing wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import structlog

from engines.engine import HEAD_PREFIX, INPUT, OUTPUTS, EngineDescription, ServerState, ServerStatus
from engines.errors import BundleRefused, InferenceError, RemoteError
from engines.live.load.golden_check import check_outputs, check_parity, limits
from engines.remote.http import Client
from engines.remote.inference_server import InferenceServer, ModelMetadata
from engines.remote.tensors import BYTES, Tensor, files, pixels
from engines.signature import named_outputs
from engines.spec import EngineSpec, Precision
from stage1.errors import OutputsError
from stage1.outputs import Floats, Stage1Outputs
from stage1.preprocess import Pixels, Shape

log = structlog.get_logger(__name__)

# Of the golden images, those that are looked at in turn while a server answers.
LOOKED_AT = 8
# The first batches at a server that has just loaded a model take longer than any later one.
GATE_CALL_S = 30.0
# Statuses of a server that is there, and has no such model or version.
ABSENT = frozenset({400, 404})
EVENTS: dict[ServerState, str] = {
    "late": "stage1_server_late",
    "lost": "stage1_server_lost",
    "refused": "stage1_server_refused",
}


@dataclass(frozen=True)
class Asked:
    """What a bundle wants of a server.

    Attributes:
        model: name of the model.
        version: that the bundle is.
        golden: its golden images.
        looked_at: the first of them.
        expected: what all of them give.
        tolerance: largest difference of any output that is accepted, in logits.
        certified: precision of the engine that the bundle was certified on.
        spec: the engine that its servers are to compute.
    """

    model: str
    version: str
    golden: Path
    looked_at: Pixels
    expected: Stage1Outputs
    tolerance: float
    certified: Precision
    spec: EngineSpec

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of its graph."""
        return (*OUTPUTS, *(HEAD_PREFIX + name for name in self.expected.heads))

    @property
    def limits(self) -> tuple[float, ...]:
        """Largest difference of each of them that is accepted; see `engines.live.load.golden_check.limits`."""
        return limits(self.expected, self.tolerance, self.certified, self.spec.precision)

    @property
    def shape(self) -> Shape:
        """Height and width of its images, px."""
        height, width = self.looked_at.shape[2:]
        return height, width


class Seat:
    """A server that is asked for one bundle; everything in it is done in one event loop.

    Args:
        client: sends the requests.
        url: of the server, without a path.
        asked: what the bundle wants.
        timeout_s: of one batch.
        on_up: called when it may answer.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        asked: Asked,
        timeout_s: float,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        self.state: ServerState = "lost"
        self.reason = "not asked yet"
        self.absent = False
        self.in_flight = self.batches = self.failures = 0
        # Set when it fails, so that nobody waits to look at it again.
        self.failed = asyncio.Event()
        self._on_up = on_up
        self._client, self._asked, self._timeout_s = client, asked, timeout_s
        self._server = self._connected()
        self._looks = 0
        self._platform = ""
        # Where a server reads no binary tensors, pixels as JSON numbers would take it a second.
        self._in_bytes = False

    @property
    def status(self) -> ServerStatus:
        """How it stands."""
        return ServerStatus(
            self.url, self.state, self.in_flight, self.batches, self.failures, self.reason, self._platform
        )

    async def infer(self, batch: Pixels, timeout_s: float) -> Stage1Outputs:
        """Outputs of a batch; a failure costs the server its permission to answer.

        Raises:
            RemoteError: no answer in time, or none that a Stage-1 of this bundle can give.
        """
        try:
            outputs = await self._outputs(batch, timeout_s)
        except RemoteError as error:
            self.fail(error)
            raise
        self.batches += 1
        return outputs

    async def gate(self, sizes: Sequence[int]) -> bool:
        """Have it show that it computes the bundle; whether it may answer now.

        Args:
            sizes: of batches, in ascending order.
        """
        self._server, before = self._connected(), self.state
        self.failed.clear()
        self.absent = False
        try:
            await self._check_model()
            facade, asked = _OneServer(self, asyncio.get_running_loop()), self._asked
            check = partial(check_parity, facade, asked.golden, asked.tolerance, precision=asked.certified, sizes=sizes)
            await asyncio.to_thread(check)
        except (RemoteError, BundleRefused, OutputsError, InferenceError) as error:
            self.fail(error)
            return False
        self._rise()
        if before != "up":
            log.info("stage1_server_up", server=self.url, version=self._asked.version, platform=self._platform)
        return True

    async def look(self) -> bool:
        """Have a server that may answer, or was too slow, compute one golden image; whether it may now."""
        self.failed.clear()
        at = self._looks % len(self._asked.looked_at)
        self._looks += 1
        one = slice(at, at + 1)
        try:
            outputs = await self._outputs(self._asked.looked_at[one], self._timeout_s)
            check_outputs(outputs, self._asked.expected.rows(one), self._asked.limits)
        except (RemoteError, BundleRefused) as error:
            self.fail(error)
            return False
        self._rise()
        return True

    async def _outputs(self, batch: Pixels, timeout_s: float) -> Stage1Outputs:
        self.in_flight += 1
        try:
            return await self._sent(batch, timeout_s)
        except RemoteError as error:
            if not error.stale:
                raise
            # A connection that the server had done with says nothing of the server.
            return await self._sent(batch, timeout_s)
        finally:
            self.in_flight -= 1

    async def _sent(self, batch: Pixels, timeout_s: float) -> Stage1Outputs:
        names = self._asked.outputs
        reply = await self._server.infer([self._tensor(batch)], names, timeout_s)
        if reply.model_version != self._asked.version:
            told = reply.model_version or "without a name"
            raise RemoteError(f"{self.url}: version {told} answered, and the bundle is version {self._asked.version}")
        values: list[Floats] = [reply.outputs[name] for name in names]
        # Triton gives a number of each image as a row of one.
        values[1] = values[1].reshape(-1) if values[1].shape == (len(batch), 1) else values[1]
        try:
            return named_outputs(names, values, rows=len(batch))
        except (OutputsError, InferenceError) as error:
            raise RemoteError(f"{self.url}: {error}") from error

    def _tensor(self, batch: Pixels) -> Tensor:
        if self._in_bytes:
            return files(INPUT, [image.tobytes() for image in batch])
        return pixels(INPUT, batch)

    async def _check_model(self) -> None:
        try:
            found = await self._server.metadata(self._timeout_s)
        except RemoteError as error:
            self.absent = error.status in ABSENT
            raise
        self._platform = found.platform
        self._in_bytes = any(port.datatype == BYTES for port in found.inputs)
        why = _another(found, self._asked)
        if why:
            raise BundleRefused(f"{self.url}: {why}")

    def _connected(self) -> InferenceServer:
        # Whether it has the binary extension is asked anew: another program may listen there by then.
        return InferenceServer(self._client, self.url, self._asked.model, self._asked.version)

    def _rise(self) -> None:
        self.state, self.reason = "up", ""
        self._on_up()

    def fail(self, error: Exception) -> None:
        """It may not answer: late once it was too slow, lost if it did not, refused if it answered otherwise."""
        lost = isinstance(error, RemoteError) and (
            self.absent
            or error.passing
            or error.timed_out
            or (error.status is not None and error.status >= 500)
            or isinstance(error.__cause__, aiohttp.ClientError)
        )
        late = isinstance(error, RemoteError) and error.timed_out and self.state == "up"
        state: ServerState = "late" if late else "lost" if lost else "refused"
        reason = str(error).removeprefix(f"{self.url}: ")
        if self.state == "up" or (self.state, self.reason) != (state, reason):
            log.warning(EVENTS[state], server=self.url, version=self._asked.version, reason=reason)
        self.failures += self.state == "up"
        self.state, self.reason = state, reason
        self.failed.set()


def _another(found: ModelMetadata, asked: Asked) -> str:
    """Why a model is not the bundle's, by what it says of itself; empty if nothing speaks against it."""
    if found.name != asked.model:
        return f"the model calls itself {found.name!r}, expected {asked.model!r}"
    if found.versions and asked.version not in found.versions:
        return f"the model has the versions {', '.join(found.versions)}, and the bundle is version {asked.version}"
    inputs = [(port.name, port.datatype, port.shape[-3:]) for port in found.inputs]
    if inputs not in ([(INPUT, "UINT8", (3, *asked.shape))], [(INPUT, BYTES, (-1,))]):
        told = ", ".join(f"{name} {kind} {list(shape)}" for name, kind, shape in inputs) or "nothing"
        return f"the model takes {told}, and the bundle {INPUT} UINT8 {[-1, 3, *asked.shape]}"
    outputs = {port.name: port.datatype for port in found.outputs}
    if outputs != dict.fromkeys(asked.outputs, "FP32"):
        told = ", ".join(f"{name} {kind}" for name, kind in outputs.items()) or "nothing"
        return f"the model gives {told}, and the bundle {', '.join(asked.outputs)}, all FP32"
    return ""


class _OneServer:
    """A server as an engine, for the check that every engine has to pass; called from a thread."""

    def __init__(self, seat: Seat, loop: asyncio.AbstractEventLoop) -> None:
        self._seat, self._loop = seat, loop

    def infer(self, batch: Pixels) -> Stage1Outputs:
        work = self._seat._outputs(batch, GATE_CALL_S)  # noqa: SLF001  the two are one thing, seen from two threads
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def warm_up(self, most: int) -> None:
        """Its server does that."""

    def close(self) -> None:
        """There is nothing to free."""

    def describe(self) -> EngineDescription:
        asked = self._seat._asked  # noqa: SLF001  as above
        return EngineDescription(asked.spec, self._seat.url, asked.shape, 0)
