"""The live bundle, loaded as a miner loads it, and one image answered with it."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from statistics import median

from engines.errors import EngineError, Unavailable
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import CheckedBundle, LiveBundle, check_bundle
from engines.live.swap.follower import StoreFollower
from engines.machine.clock import utc_now
from engines.store.bundle import Manifest
from engines.store.file_names import GOLDEN, MANIFEST
from engines.store.golden import read_golden
from engines.store.model_card import FULL_REWARD_DAYS, age_days
from engines.store.store import Store
from miner.answering.cascade import Cascade
from miner.answering.record import RequestRecord
from miner.answering.request import Request
from miner.assembly import follower_of
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.identities import time_budget
from miner.nights.job import NightlyJob
from miner.settings import MinerSettings
from stage1.certificate.risks import Risk
from stage1.decisions import Action
from stage1.errors import Stage1Error
from stage1.preprocess import decode_base64, preprocess
from stage2_bridge.bridge import Bridge
from stage2_bridge.sample_image import noise_image

RENEWED_BEFORE_DAYS = 10.0
ASKED = 5
# What a validator waits; and from where on an answer without Stage-2 is slow for what it is.
WAITS_S, SLOW_S = 9.0, 1.0
# What is counted as a loss, and among what.
OF = {
    Risk.MISS_ALL: "of the roadwork exits as none",
    Risk.MISS_GATED: "of the roadwork that passes the gate exits as none",
    Risk.MISS_EXIT: "of the roadwork that exits is missed",
    Risk.FALSE_OMISSION: "of what exits as no roadwork shows some",
    Risk.ERROR_EXIT: "of what exits is wrong",
    Risk.MISS_JOINT: "of all images are roadwork that exits as none",
}
RETRAIN = "run `cascade retrain`"


def checked_bundle(settings: MinerSettings) -> CheckedBundle | Finding:
    """The current bundle after every check that needs no engine, or what is wrong with it."""
    store = Store(settings.store)
    try:
        pointer = store.current()
        if pointer is None:
            return error("bundle", f"{settings.store}: none is current", RETRAIN)
        return check_bundle(store.path(pointer.bundle))
    except (EngineError, Stage1Error) as failed:
        return error("bundle", str(failed), f"roll back with `cascade engines rollback`, or {RETRAIN}")


def certificate(checked: CheckedBundle) -> list[Finding]:
    """What the certificate says, and that every file of the bundle is what it is bound to."""
    params, name = checked.params, checked.manifest.bundle_id
    found = [ok("bundle", f"{name}: {len(checked.manifest.files)} files, each as its manifest says")]
    if params.status == "INFEASIBLE":
        detail = f"nothing is certified, so everything goes to Stage-2: {params.reason}"
        return [*found, warning("certificate", detail, "`cascade plan` says how many labelled groups it takes")]
    share = params.exit_coverage
    covers = "" if share is None else f"; {share.estimate:.0%} of the calibration units exit"
    limit = f"at most {params.alpha:.1%} {OF[Risk(params.risk)]} ({params.risk})"
    holds = f"{limit}, with {1 - params.delta:.0%} confidence, counted by {params.unit}{covers}"
    return [*found, ok("certificate", f"{params.status} for stream {params.stream}: {holds}")]


async def serving(settings: MinerSettings, checked: CheckedBundle, *, beside_a_miner: bool) -> list[Finding]:
    """Load the bundle as a miner does, compare it with its golden images, and have it answer an image.

    Args:
        settings: of the miner.
        checked: the bundle.
        beside_a_miner: one runs already, so that there may be too little memory for a second engine.
    """
    nightly = NightlyJob(
        settings.retrain, night=settings.night, store=settings.store, state=settings.state, now=utc_now
    )
    async with AsyncExitStack() as stack:
        follower = follower_of(settings, nightly, stack)
        try:
            await follower.start()
        except Unavailable as failed:
            if beside_a_miner:
                return [warning("engine", f"not tried beside the miner that runs: {failed}")]
            return [error("engine", str(failed))]
        except (EngineError, Stage1Error) as failed:
            return [error("engine", str(failed), f"roll back with `cascade engines rollback`, or {RETRAIN}")]
        with follower.slot.lease() as lease:
            bundle = lease.bundle
            return [_engine(follower), _golden(checked, bundle), await test_image(settings, follower, bundle)]


def _engine(follower: StoreFollower) -> Finding:
    status = follower.status()
    if status.stands_in:
        detail = f"{status.engine} stands in: the bundle's own engine is for another machine"
        return warning("engine", detail, "`cascade engines compile` makes one for this machine")
    return ok("engine", f"{status.engine}, vouched for by the {status.vouched_by}")


def _golden(checked: CheckedBundle, bundle: LiveBundle) -> Finding:
    # Whoever loads a bundle compares them all; one that differed would not be loaded.
    images, _ = read_golden(checked.directory / GOLDEN)
    tolerance = bundle.manifest.parity_tolerance
    return ok("golden images", f"{len(images)} images come out as they were certified, within {tolerance:.2g}")


class _Kept:
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def on_answer(self, record: RequestRecord) -> None:
        self.records.append(record)


async def test_image(settings: MinerSettings, follower: StoreFollower, bundle: LiveBundle) -> Finding:
    """Have the cascade answer an image a few times, without Stage-2, and say where the time goes.

    Args:
        settings: of the miner.
        follower: holds the live bundle.
        bundle: it.
    """
    text, kept = base64.b64encode(noise_image()).decode(), _Kept()
    budget = time_budget(settings)
    async with AsyncExitStack() as stack:
        batcher = Batcher(settings.engine.batch, clock=time.monotonic)
        stack.push_async_callback(asyncio.to_thread, batcher.close)
        cascade = Cascade(
            follower.slot,
            batcher,
            Bridge(None, max_in_flight=1, clock=time.monotonic),
            observers=(kept,),
            engine=settings.engine,
            clock=time.monotonic,
            now=utc_now,
        )
        stack.push_async_callback(cascade.close)
        for number in range(ASKED):
            deadline = budget.deadline(time.monotonic(), WAITS_S)
            await cascade.answer(Request(f"doctor-{number}", "doctor", None, text, deadline))
    record = sorted(kept.records, key=lambda one: one.total_ms)[ASKED // 2]
    if record.result != "answered":
        return error("test image", f"the answer was {record.result.replace('_', ' ')}", "see the log above")
    decode_ms, engine_ms = await asyncio.to_thread(_phases, text, bundle)
    became = "exits" if record.action is Action.EXIT else "goes to Stage-2"
    whole = f"answered in {record.total_ms:.1f} ms (decoding {decode_ms:.1f}, engine {engine_ms:.1f}); it {became}"
    if record.total_ms > settings.requests.deadline_s * 1e3:
        return error("test image", whole, "the validator has left by then: serve a smaller model, or on a GPU")
    if record.total_ms > SLOW_S * 1e3:
        return warning("test image", whole, "look at what else uses this machine, and at engine.threads")
    return ok("test image", whole)


def _phases(text: str, bundle: LiveBundle) -> tuple[float, float]:
    """Median milliseconds of decoding an image and of the engine's work on it."""
    settings = bundle.preprocess
    pixels = preprocess(decode_base64(text, settings), settings)
    decoding = _median_ms(lambda: preprocess(decode_base64(text, settings), settings))
    return decoding, _median_ms(lambda: bundle.engine.infer(pixels[None]))


def _median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ASKED):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times) * 1e3


def model_age(settings: MinerSettings, now: datetime) -> list[Finding]:
    """How old the live model is, which decides what NATIX pays for it; nothing where none is live."""
    store = Store(settings.store)
    try:
        pointer = store.current()
        manifest = None if pointer is None else Manifest.read(store.path(pointer.bundle) / MANIFEST)
    except (EngineError, Stage1Error):
        return []
    if manifest is None:
        return []
    days = age_days(store.root, manifest, now)
    if days is None:
        return [
            warning("model age", f"{manifest.bundle_id}: not known", "`cascade engines card` makes a new model card")
        ]
    left = FULL_REWARD_DAYS - days
    told = f"{manifest.bundle_id}: {days:.1f} days; a model is paid in full for {FULL_REWARD_DAYS:.0f}"
    if left >= RENEWED_BEFORE_DAYS:
        return [ok("model age", told)]
    todo = "publish a new one, submit it and register it with `cascade register-natix`"
    return [warning("model age", f"{told}, which {'are over' if left < 0 else 'end soon'}", todo)]
