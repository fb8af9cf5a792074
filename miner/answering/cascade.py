"""The cascade: from a request to a probability, always and in time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from engines.errors import DeadlineExceeded, EngineError
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import LiveBundle
from engines.live.slot import BundleSlot, Lease
from engines.machine.tally import Tally
from miner.answering.record import ImageObserver, Observer, RequestRecord, Result, SeenImage
from miner.answering.request import UNDECODABLE, Prediction, Request
from miner.answering.settings import EngineSettings
from miner.answering.turns import Turns
from stage1.certificate.caution import NO_CAUTION
from stage1.certificate.params import ScrcParams
from stage1.decisions import Action, Level
from stage1.errors import ImageError, Stage1Error
from stage1.image_file import ImageLimits
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.preprocess import Pixels, decode_base64, preprocess
from stage1.probability.calibrator import answer_probability
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Verdict

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Stage1Result:
    """Everything Stage-1 says about one image; all of it from one bundle.

    Attributes:
        action: exit or defer.
        held_back: it defers, and would exit by the certificate alone.
        level: how sure it is.
        prediction_set: the labels that remain.
        roadwork_score: log-odds.
        select_score: selection score.
        probability: calibrated probability.
        answer: what is answered if Stage-2 has nothing to say.
        content: the image's bytes.
        image_sha256: their hash.
        pixels: what the engine saw.
        params: the certificate.
    """

    action: Action
    held_back: bool
    level: Level
    prediction_set: tuple[int, ...]
    roadwork_score: float
    select_score: float
    probability: float
    answer: float
    content: bytes
    image_sha256: str
    pixels: Pixels
    params: ScrcParams


class _Inference:
    """What a worker and the batcher do for one request.

    Attributes:
        lease: of the bundle that it is done with.
        content: the image's bytes, once they are decoded.
        image_sha256: their hash.
        pixels: what the engine sees of it, by then as well.
        outputs: of Stage-1; cancelled by a request that is given up.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.content, self.image_sha256 = b"", ""
        self.pixels: Pixels | None = None
        self.outputs: Future[Stage1Outputs] = Future()

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits, if anybody does."""
        with contextlib.suppress(InvalidStateError):
            self.outputs.set_exception(error)

    def follow(self, batch: Future[Stage1Outputs]) -> None:
        """End as the batch does; a batch that nobody waits for is not computed."""
        self.outputs.add_done_callback(lambda outputs: outputs.cancelled() and batch.cancel())
        batch.add_done_callback(self._take)

    def _take(self, batch: Future[Stage1Outputs]) -> None:
        if batch.cancelled():
            self.outputs.cancel()
        elif (error := batch.exception()) is not None:
            self.fail(error)
        else:
            with contextlib.suppress(InvalidStateError):
                self.outputs.set_result(batch.result())


class Cascade:
    """Answers requests with Stage-1, and with Stage-2 where Stage-1 defers.

    Args:
        slot: lends the live bundle.
        batcher: computes its engine's outputs, for requests that come together in one call.
        bridge: the way to Stage-2.
        observers: told of each answer, in this order.
        image_observers: handed each image that Stage-1 saw, after them.
        written: waits until what the observers were told is kept; an answer leaves after that.
        policy: with which a bundle decides now; without it, as it is certified.
        engine: workers and fallback.
        tally: counts answers that were given without what should have given them; one of its own without it.
        clock: monotonic time in seconds.
        now: wall-clock time, UTC.
    """

    def __init__(
        self,
        slot: BundleSlot,
        batcher: Batcher,
        bridge: Bridge,
        *,
        observers: tuple[Observer, ...] = (),
        image_observers: tuple[ImageObserver, ...] = (),
        written: Callable[[], Awaitable[object]] | None = None,
        policy: Callable[[LiveBundle], ScrcPolicy] | None = None,
        engine: EngineSettings,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally("degraded")
        self._undecodable = Tally("not_an_image")
        self._untold = Tally("observer_failed")
        self._slot = slot
        self._batcher = batcher
        self._bridge = bridge
        self._observers = observers
        self._image_observers = image_observers
        self._written = written or _at_once
        self._policy = policy or (lambda bundle: bundle.policy)
        self._fallback = engine.fallback_probability
        self._served = ImageLimits(engine.max_pixels, engine.formats)
        self._clock = clock
        self._now = now
        self._pool = ThreadPoolExecutor(engine.workers, thread_name_prefix="stage1")
        self._turns = Turns(engine.workers)

    async def answer(self, request: Request) -> Prediction:
        """Probability of roadwork, in [0, 1]; -1 only if the image cannot be decoded.

        Returns before it is due, with Stage-1's calibrated probability if Stage-2 is late, and with the fallback
        probability if Stage-1 is, or fails.
        """
        at, started = self._now(), self._clock()
        result: Result = "answered"
        lease: Lease | None = None
        stage1: Stage1Result | None = None
        verdict: Verdict | None = None
        stage1_ms: float | None = None
        answer, why = self._fallback, "an answer was given without it"
        defect: Exception | None = None
        try:
            lease = self._slot.lease()
            async with asyncio.timeout(request.deadline.due - started):
                stage1 = await self._stage1(request, lease)
            stage1_ms = (self._clock() - started) * 1e3
            answer = stage1.answer
            if stage1.action is Action.DEFER:
                verdict = await self._bridge.ask(
                    stage1.content,
                    request.deadline.stage2_until,
                    turn=request.deadline.arrived,
                    probability=stage1.probability,
                    digest=stage1.image_sha256,
                )
                answer = stage1.answer if verdict.probability is None else verdict.probability
                why = verdict.reason or why
        except ImageError as error:
            log.debug("not_an_image", request_id=request.request_id, reason=str(error))
            self._undecodable.add("not_decoded", str(error), request_id=request.request_id, hotkey=request.hotkey)
            result, answer = "not_an_image", UNDECODABLE
        except (TimeoutError, DeadlineExceeded):
            result = "stage1_late"
        except Exception as error:
            # The edge to engines and calibrators: what nobody foresaw costs no answer, and counts against the bundle.
            if isinstance(error, Stage1Error | EngineError):
                why = str(error)
            elif stage1 is None:
                why, defect = repr(error), error
            else:
                raise
            result = "stage1_failed"
            generation = 0 if lease is None else lease.generation
            log.debug("stage1_failed", request_id=request.request_id, generation=generation, reason=why)
        except asyncio.CancelledError:
            self._tell(self._record(request, at, started, "abandoned", answer, lease, stage1, verdict, stage1_ms))
            raise
        record = self._record(request, at, started, result, answer, lease, stage1, verdict, stage1_ms)
        self._tell(record)
        if stage1 is not None:
            self._hand_on(SeenImage(record, stage1.content, stage1.pixels, stage1.params))
        _log(record)
        if (reason := record.failure) is not None:
            self._tally.add(reason, why, error=defect, request_id=record.request_id, generation=record.generation)
        await self._written()
        return Prediction(answer, record.bundle, record.generation)

    def _tell(self, record: RequestRecord) -> None:
        for observer in self._observers:
            try:
                observer.on_answer(record)
            except Exception as error:
                # The edge to whatever is told: the caller waits, and gets the answer all the same.
                name = type(observer).__name__
                log.debug("observer_failed", request_id=record.request_id, observer=name, exc_info=error)
                self._untold.add(name, repr(error), error=error, request_id=record.request_id)

    def _hand_on(self, seen: SeenImage) -> None:
        for observer in self._image_observers:
            try:
                observer.on_image(seen)
            except Exception as error:
                # As above.
                log.debug("observer_failed", request_id=seen.record.request_id, exc_info=error)
                self._untold.add(type(observer).__name__, repr(error), error=error)

    async def close(self) -> None:
        """Stop the workers and close Stage-2."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._batcher.close)
        await self._bridge.close()

    async def _stage1(self, request: Request, lease: Lease) -> Stage1Result:
        """What Stage-1 says; the lease ends with it, or with the batch, which may outlive the request."""
        inference = _Inference(lease)
        try:
            await self._turns.begin(request.hotkey, request.priority)
        except BaseException:
            lease.release()
            raise
        try:
            work = self._pool.submit(self._infer, request, inference)
        except RuntimeError:
            self._turns.end(request.hotkey)
            lease.release()
            raise
        work.add_done_callback(lambda done: self._drop(request, inference) if done.cancelled() else None)
        outputs = await asyncio.wrap_future(inference.outputs)
        return _decided(lease, self._policy(lease.bundle), outputs, inference)

    def _infer(self, request: Request, inference: _Inference) -> None:
        """In a worker: decode the image, and hand it to the batcher, without a detour by the event loop."""
        lease, batch = inference.lease, None
        try:
            if not inference.outputs.cancelled():
                inference.content, pixels = self._decoded(lease, request.image_b64)
                inference.image_sha256 = hashlib.sha256(inference.content).hexdigest()
                inference.pixels = pixels
                batch = self._batcher.submit(lease, pixels, deadline=request.deadline.due, priority=request.priority)
        except BaseException as error:  # noqa: BLE001  whoever waits hears of it
            inference.fail(error)
        finally:
            # Also of a request that is given up: a worker that decodes for nobody any more is at work all the same.
            self._turns.end(request.hotkey)
        if batch is None:
            lease.release()
        else:
            inference.follow(batch)

    def _drop(self, request: Request, inference: _Inference) -> None:
        """Of a request that no worker began with before the pool was closed."""
        self._turns.end(request.hotkey)
        inference.outputs.cancel()
        inference.lease.release()

    def _decoded(self, lease: Lease, image_b64: str) -> tuple[bytes, Pixels]:
        """The image's bytes, and its pixels as the bundle of the lease wants them."""
        settings = lease.bundle.preprocess
        content = decode_base64(image_b64, settings)
        return content, preprocess(content, settings, self._served)

    def _record(
        self,
        request: Request,
        at: datetime,
        started: float,
        result: Result,
        answer: float,
        lease: Lease | None,
        stage1: Stage1Result | None,
        verdict: Verdict | None,
        stage1_ms: float | None,
    ) -> RequestRecord:
        seen = {} if stage1 is None else _seen(stage1)
        return RequestRecord(
            request_id=request.request_id,
            at=at,
            hotkey=request.hotkey,
            receiver=request.receiver,
            result=result,
            answer=answer,
            bundle="" if lease is None else lease.bundle.bundle_id,
            generation=0 if lease is None else lease.generation,
            stage1_ms=stage1_ms,
            stage2=None if verdict is None else verdict.outcome,
            stage2_probability=None if verdict is None else verdict.probability,
            stage2_server=None if verdict is None or verdict.probability is None else verdict.server,
            stage2_ms=None if verdict is None else verdict.latency_ms,
            stage2_reason=(verdict.reason or None) if verdict is not None else None,
            stage2_cached=(verdict.cached or None) if verdict is not None else None,
            total_ms=(self._clock() - started) * 1e3,
            **seen,
        )


def _seen(stage1: Stage1Result) -> dict[str, Any]:
    """What a record says of an image that Stage-1 saw."""
    return {
        "image_sha256": stage1.image_sha256,
        "action": stage1.action,
        "held_back": stage1.held_back or None,
        "level": stage1.level.name,
        "review": stage1.level is Level.AMBIGUOUS,
        "prediction_set": stage1.prediction_set,
        "likelier_label": int(stage1.answer > 0.5),
        "roadwork_score": stage1.roadwork_score,
        "select_score": stage1.select_score,
        "stage1_probability": stage1.probability,
    }


def _decided(lease: Lease, policy: ScrcPolicy, outputs: Stage1Outputs, inference: _Inference) -> Stage1Result:
    assert inference.pixels is not None
    bundle = lease.bundle
    decisions = policy.decide(outputs)
    action = decisions.action(0)
    cautious = policy.caution != NO_CAUTION and action is Action.DEFER
    probability = bundle.calibrator.probability(outputs)
    return Stage1Result(
        action=action,
        held_back=cautious and bundle.policy.decide(outputs).action(0) is Action.EXIT,
        level=Level(int(decisions.level[0])),
        prediction_set=decisions.prediction_set(0),
        roadwork_score=float(outputs.roadwork_score[0]),
        select_score=float(outputs.select_score[0]),
        probability=float(probability[0]),
        answer=float(answer_probability(probability, decisions)[0]),
        content=inference.content,
        image_sha256=inference.image_sha256,
        pixels=inference.pixels,
        params=bundle.params,
    )


async def _at_once() -> None:
    """Where nobody keeps anything."""


def _log(record: RequestRecord) -> None:
    log.info(
        "request",
        request_id=record.request_id,
        hotkey=record.hotkey[:8],
        receiver=record.receiver[:8],
        result=record.result,
        answer=round(record.answer, 4),
        action=record.action,
        # Not `level`, which is that of the log line.
        decision=record.level,
        bundle=record.bundle,
        generation=record.generation,
        stage2=record.stage2,
        stage2_reason=record.stage2_reason,
        degraded=record.degraded,
        ms=round(record.total_ms, 1),
    )
