"""The cascade: exits where the certificate allows, asks Stage-2 otherwise, and always answers in time."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from engines.errors import InferenceError
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot, Lease
from engines.store.bundle import Provenance
from engines.store.store import Store
from miner.answering.cascade import Cascade
from miner.answering.deadline import TimeBudget
from miner.answering.journal import Journal, read_journal
from miner.answering.record import RequestRecord
from miner.answering.request import Prediction, Request
from miner.answering.settings import EngineSettings
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import run_engine
from offline.stream.challenge import Cell, sent
from stage1.artifacts import sha256_file
from stage1.certificate.caution import NO_CAUTION, Caution
from stage1.certificate.params import ScrcParams
from stage1.certificate.stream import ERAS
from stage1.decisions import Action
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.preprocess import Geometry, Pixels, PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome, Stage2Error
from tests.support.challenges import jpeg, patches
from tests.support.engines import Seen

# The tiny engine scores 0.04 (red - blue), and trusts what is green.
ROADWORK, ROAD = (255, 255, 0), (0, 255, 255)
BUDGET = TimeBudget(deadline_s=1e9, margin_s=0.0, reserve_s=0.05)


def encoded(colour: tuple[int, ...]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def unsure(bundle: LiveBundle) -> tuple[int, int, int]:
    """A colour whose score lies between the thresholds."""
    rule = bundle.params.rule
    assert rule is not None
    middle = round((rule.t0 + rule.t1) / 2 / 0.04)
    assert rule.t0 <= 0.04 * middle < rule.t1
    return max(0, middle), 255, max(0, -middle)


class Expert:
    """A Stage-2 that says what it is told to say."""

    name = "expert"

    def __init__(self, probability: float = 0.9, *, delay_s: float = 0.0, error: Exception | None = None) -> None:
        self.probability, self.delay_s, self.error = probability, delay_s, error
        self.asked: list[bytes] = []

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.asked.append(content)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return self.probability

    async def close(self) -> None:
        pass


@pytest.fixture
def bundle(tmp_path: Path, bundle_files: Path, provenance: Provenance) -> LiveBundle:
    store = Store(tmp_path / "store")
    return load_bundle(store.path(store.publish(bundle_files, provenance)), threads=1)


@pytest.fixture
def infeasible(
    tmp_path: Path,
    tiny_engine: Path,
    certificate: Callable[..., ScrcParams],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> LiveBundle:
    params = certificate(
        engine_sha256=sha256_file(tiny_engine), preprocess_sha256=PreprocessSettings(size_px=32).sha256, feasible=False
    )
    files = write_bundle_files(tmp_path / "files", engine=tiny_engine, params=params)
    store = Store(tmp_path / "infeasible")
    return load_bundle(store.path(store.publish(files, provenance)), threads=1)


def ask(
    bundle: LiveBundle,
    state: Path,
    *images: str,
    expert: Expert | None = None,
    deadline_s: float = 20.0,
    during: Callable[[BundleSlot], None] | None = None,
    afterwards: Callable[[], None] = lambda: None,
    caution: Caution = NO_CAUTION,
) -> tuple[list[float], list[RequestRecord]]:
    """Answers to images asked one after the other, and what the journal says of them; both name the same bundle."""
    origins: list[tuple[str, int]] = []

    async def run() -> list[float]:
        slot = BundleSlot()
        slot.swap(bundle)
        bridge = Bridge(expert, max_in_flight=4, clock=time.monotonic)
        journal = Journal(state)
        cascade = Cascade(
            slot,
            Batcher(BatchSettings()),
            bridge,
            observers=(journal,),
            policy=lambda live: ScrcPolicy(live.params, caution),
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
        )
        answers = []
        for number, image in enumerate(images):
            if during is not None:
                during(slot)
            request = Request(
                f"request-{number}", "5Validator", 1, image, BUDGET.deadline(time.monotonic(), deadline_s)
            )
            prediction = await cascade.answer(request)
            answers.append(prediction.probability)
            origins.append((prediction.bundle, prediction.generation))
            # Nobody waits for what hangs.
            assert time.monotonic() <= request.deadline.due + 20
        afterwards()
        await cascade.close()
        journal.close()
        return answers

    answers = asyncio.run(run())
    records = list(read_journal(state))
    assert origins == [(record.bundle, record.generation) for record in records]
    return answers, records


def test_a_certain_image_exits_and_stage2_is_not_asked(bundle: LiveBundle, tmp_path: Path) -> None:
    expert = Expert()
    answers, records = ask(bundle, tmp_path, encoded(ROADWORK), encoded(ROAD), expert=expert)
    assert answers[0] > 0.5 > answers[1]
    assert [record.prediction_set for record in records] == [(1,), (0,)]
    assert all(record.action is Action.EXIT and record.stage2 is None for record in records)
    assert not expert.asked


def test_what_caution_alone_hands_on_is_told_from_what_the_certificate_hands_on(
    bundle: LiveBundle, tmp_path: Path
) -> None:
    images = encoded(ROAD), encoded(ROADWORK), encoded(unsure(bundle))
    _, records = ask(bundle, tmp_path / "as certified", *images)
    assert [(record.action, record.held_back) for record in records] == [
        (Action.EXIT, None),
        (Action.EXIT, None),
        (Action.DEFER, None),
    ]
    _, records = ask(bundle, tmp_path / "cautious", *images, caution=Caution(exits0=False))
    assert [(record.action, record.held_back) for record in records] == [
        (Action.DEFER, True),
        (Action.EXIT, None),
        (Action.DEFER, None),
    ]


@pytest.mark.parametrize("geometry", get_args(Geometry))
def test_training_calibration_and_serving_show_a_picture_to_the_bit_alike(
    tmp_path: Path,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
    geometry: Geometry,
) -> None:
    settings = PreprocessSettings(size_px=32, geometry=geometry)
    store = Store(tmp_path / "store")
    height, width = settings.shape
    engine = write_onnx(tmp_path / "engine.onnx", size_px=height, width_px=width)
    files = write_bundle_files(tmp_path / "files", engine=engine, preprocess=settings)
    live = load_bundle(store.path(store.publish(files, provenance)), threads=1)
    cells = [Cell(era, 0) for era in ERAS]
    sending = [sent(jpeg(patches()), cell, np.random.default_rng(0), settings) for cell in cells]
    for cell, content in zip(cells, sending, strict=True):
        (tmp_path / f"{cell.era}.jpg").write_bytes(content)
    rows = tuple(Row(image=f"{cell.era}.jpg", label=0, group=cell.era) for cell in cells)
    data = Dataset(tmp_path, rows)

    trained = data.array(settings)
    calibrating, serving = Seen(live.engine), Seen(live.engine)
    run_engine(calibrating, data, live.preprocess, lambda *_: None, "")
    images = [base64.b64encode(content).decode() for content in sending]
    ask(replace(live, engine=serving), tmp_path / "journal", *images)
    assert np.array_equal(np.concatenate(calibrating.batches), trained)
    assert np.array_equal(np.stack([batch[0] for batch in serving.batches]), trained)


def test_an_uncertain_image_gets_stage2s_answer(bundle: LiveBundle, tmp_path: Path) -> None:
    expert = Expert(0.77)
    answers, [record] = ask(bundle, tmp_path, encoded(unsure(bundle)), expert=expert)
    assert answers == [0.77]
    assert (record.action, record.prediction_set, record.stage2) == (Action.DEFER, (0, 1), Outcome.ANSWERED)
    assert record.stage2_server == "expert"
    assert expert.asked == [base64.b64decode(encoded(unsure(bundle)))]


@pytest.mark.parametrize(
    ("expert", "outcome"),
    [
        (Expert(delay_s=60), Outcome.TIMEOUT),
        (Expert(error=Stage2Error("no")), Outcome.ERROR),
        (Expert(probability=float("nan")), Outcome.ERROR),
        (None, Outcome.ABSENT),
    ],
    ids=["late", "failing", "not a number", "absent"],
)
def test_without_an_answer_of_stage2_stage1s_probability_is_answered(
    bundle: LiveBundle, tmp_path: Path, expert: Expert | None, outcome: Outcome
) -> None:
    deadline_s = 1.0 if outcome is Outcome.TIMEOUT else 20.0
    answers, [record] = ask(bundle, tmp_path, encoded(unsure(bundle)), expert=expert, deadline_s=deadline_s)
    assert answers == [record.stage1_probability]
    assert record.stage2 is outcome
    assert record.stage2_server is None
    assert record.stage2_ms is not None
    assert record.stage1_ms is not None
    assert 0 <= record.stage2_ms <= record.total_ms - record.stage1_ms


@pytest.mark.parametrize("image", ["", "%%%", base64.b64encode(b"no image").decode()])
def test_only_what_is_no_image_is_answered_with_minus_one(bundle: LiveBundle, tmp_path: Path, image: str) -> None:
    answers, [record] = ask(bundle, tmp_path, image, expert=Expert())
    assert answers == [-1.0]
    assert record.result == "not_an_image"


def test_images_that_cannot_be_decoded_do_not_fill_the_log(bundle: LiveBundle, tmp_path: Path) -> None:
    """A caller sends as many as it likes."""
    with capture_logs() as logs:
        ask(bundle, tmp_path, *["%%%"] * 20, expert=Expert())
    told = [entry for entry in logs if entry["event"] == "not_an_image" and entry["log_level"] != "debug"]
    assert [(entry["times"], entry["log_level"]) for entry in told] == [(1, "warning")]
    assert len([entry for entry in logs if entry["event"] == "not_an_image"]) == 21


def as_format(name: str, size: tuple[int, int] = (64, 64)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, ROAD).save(file, name)
    return base64.b64encode(file.getvalue()).decode()


def test_what_would_hold_up_others_is_no_image(bundle: LiveBundle, tmp_path: Path) -> None:
    """A PNG of 64 megapixels is 0.2 MB and takes seconds; a WebP of 2 KB may hold up the process."""
    huge, webp, png = as_format("PNG", (5000, 4001)), as_format("WEBP"), as_format("PNG")
    answers, records = ask(bundle, tmp_path, huge, webp, png, expert=Expert())
    assert [record.result for record in records] == ["not_an_image", "not_an_image", "answered"]
    assert answers[:2] == [-1.0, -1.0]


def test_infeasible_defers_everything_and_still_answers(infeasible: LiveBundle, tmp_path: Path) -> None:
    images = [encoded(colour) for colour in (ROADWORK, ROAD, (128, 128, 128))]
    answers, records = ask(infeasible, tmp_path, *images, expert=Expert(0.6))
    assert answers == [0.6] * 3
    assert {record.action for record in records} == {Action.DEFER}


def test_a_failing_engine_is_answered_with_the_fallback(bundle: LiveBundle, tmp_path: Path) -> None:
    bundle.engine.close()
    with capture_logs() as logs:
        answers, [record] = ask(bundle, tmp_path, encoded(ROAD), expert=Expert())
    assert answers == [0.5]
    assert (record.result, record.bundle, record.generation) == ("stage1_failed", bundle.bundle_id, 1)
    [each] = [entry for entry in logs if entry["event"] == "stage1_failed"]
    assert (each["generation"], each["log_level"]) == (1, "debug")
    # Not told as healthy, and an alarm by itself.
    assert [entry["degraded"] for entry in logs if entry["event"] == "request"] == ["stage1_failed"]
    assert [(entry["reason"], entry["log_level"]) for entry in logs if entry["event"] == "degraded"] == [
        ("stage1_failed", "warning")
    ]
    [told] = [entry["example"] for entry in logs if entry["event"] == "degraded"]
    assert (told["message"], told["generation"]) == (each["reason"], 1)


def test_a_bundle_with_a_defect_is_answered_with_the_fallback_and_recorded_as_one_that_fails(
    bundle: LiveBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw is raised by a calibrator: each caller got an error, and no canary counted it."""

    def broken(_calibrator: ProbabilityCalibrator, _outputs: Stage1Outputs) -> float:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(ProbabilityCalibrator, "probability", broken)
    with capture_logs() as logs:
        answers, [record] = ask(bundle, tmp_path, encoded(ROAD), expert=Expert())
    assert answers == [0.5]
    assert (record.result, record.bundle, record.generation) == ("stage1_failed", bundle.bundle_id, 1)
    [told] = [entry for entry in logs if entry["event"] == "degraded"]
    assert told["reason"] == "stage1_failed"
    assert "a defect" in told["example"]["message"]
    assert isinstance(told["exc_info"], ZeroDivisionError)


def test_a_stage1_that_is_late_is_answered_with_the_fallback_in_time(
    bundle: LiveBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    infer = bundle.engine.infer
    monkeypatch.setattr(bundle.engine, "infer", lambda batch: (release.wait(60), infer(batch))[1])
    answers, [record] = ask(bundle, tmp_path, encoded(ROAD), expert=Expert(), deadline_s=0.3, afterwards=release.set)
    assert answers == [0.5]
    assert (record.result, record.bundle, record.generation) == ("stage1_late", bundle.bundle_id, 1)


def test_each_request_is_decided_by_one_bundle_and_the_journal_names_it(
    bundle: LiveBundle, infeasible: LiveBundle, tmp_path: Path
) -> None:
    waiting = iter([None, infeasible])

    def swap(slot: BundleSlot) -> None:
        if (replacement := next(waiting)) is not None:
            slot.swap(replacement)

    answers, records = ask(bundle, tmp_path, encoded(ROADWORK), encoded(ROADWORK), expert=Expert(0.3), during=swap)
    assert [record.bundle for record in records] == [bundle.bundle_id, infeasible.bundle_id]
    assert [record.generation for record in records] == [1, 2]
    assert answers[0] > 0.5
    assert answers[1] == 0.3


def test_an_answer_is_a_plain_finite_float(bundle: LiveBundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = [tuple(int(v) for v in colour) for colour in rng.integers(0, 256, (20, 3))]
    answers, records = ask(bundle, tmp_path, *(encoded(colour) for colour in colours), expert=Expert(0.5))
    assert all(type(answer) is float and 0 <= answer <= 1 for answer in answers)
    for answer, record in zip(answers, records, strict=True):
        if record.action is Action.EXIT:
            assert record.prediction_set == (int(np.round(answer)),)


def test_a_torn_last_line_of_the_journal_is_skipped(bundle: LiveBundle, tmp_path: Path) -> None:
    _, records = ask(bundle, tmp_path, encoded(ROAD), expert=Expert())
    with (tmp_path / "journal.jsonl").open("a") as handle:
        handle.write('{"request_id": "half')
    assert list(read_journal(tmp_path)) == records


class Held(Future[Stage1Outputs]):
    """Outputs that keep the worker which wants to hear of them, as a slow end of a loan does."""

    def __init__(self, begun: threading.Event, go_on: threading.Event) -> None:
        super().__init__()
        self.begun, self.go_on = begun, go_on

    def add_done_callback(self, fn: Callable[[Future[Stage1Outputs]], object]) -> None:
        self.begun.set()
        self.go_on.wait(60)
        super().add_done_callback(fn)


class Holding(Batcher):
    """Keeps the worker that submits to it."""

    def __init__(self) -> None:
        super().__init__(BatchSettings())
        self.begun, self.go_on = threading.Event(), threading.Event()

    def submit(self, lease: Lease, image: Pixels, *, deadline: float, priority: float = 0.0) -> Future[Stage1Outputs]:  # noqa: ARG002
        held = Held(self.begun, self.go_on)
        held.set_exception(InferenceError("no engine"))
        lease.release()
        return held


def test_a_request_that_no_worker_began_with_ends_with_the_cascade_and_gives_its_bundle_back(
    bundle: LiveBundle,
) -> None:
    async def run() -> tuple[list[object], dict[int, int]]:
        slot, batcher = BundleSlot(), Holding()
        slot.swap(bundle)
        cascade = Cascade(
            slot,
            batcher,
            Bridge(None, max_in_flight=1, clock=time.monotonic),
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
        )
        asking = []
        for number in range(2):
            due = BUDGET.deadline(time.monotonic(), 1e6)
            request = Request(f"request-{number}", "5Validator", 1, encoded(ROAD), due)
            asking.append(asyncio.create_task(cascade.answer(request)))
            async with asyncio.timeout(20):
                await asyncio.to_thread(batcher.begun.wait)
        # The turn of the first is over, and its worker is not yet free.
        closing = asyncio.create_task(cascade.close())
        await asyncio.sleep(0)
        batcher.go_on.set()
        await closing
        async with asyncio.timeout(20):
            ended = await asyncio.gather(*asking, return_exceptions=True)
        return list(ended), slot.leases

    ended, leases = asyncio.run(run())
    assert [type(one) for one in ended] == [Prediction, asyncio.CancelledError]
    assert not any(leases.values())


class Forgotten(Expert):
    """Never answers, and notes that it was told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.stopped = asyncio.Event(), asyncio.Event()

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return 0.5


def test_what_nobody_waits_for_any_more_is_given_up_and_recorded(bundle: LiveBundle, tmp_path: Path) -> None:
    async def run() -> dict[int, int]:
        slot, expert, journal = BundleSlot(), Forgotten(), Journal(tmp_path)
        slot.swap(bundle)
        cascade = Cascade(
            slot,
            Batcher(BatchSettings()),
            Bridge(expert, max_in_flight=1, clock=time.monotonic),
            observers=(journal,),
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
        )
        deadline = BUDGET.deadline(time.monotonic(), 1e6)
        asking = asyncio.create_task(
            cascade.answer(Request("request-0", "5Validator", 1, encoded(unsure(bundle)), deadline, "5Ours"))
        )
        async with asyncio.timeout(60):
            await expert.begun.wait()
            asking.cancel()
            await expert.stopped.wait()
        await asyncio.gather(asking, return_exceptions=True)
        await cascade.close()
        journal.close()
        return slot.leases

    assert not any(asyncio.run(run()).values())
    [record] = read_journal(tmp_path)
    assert (record.result, record.receiver, record.action) == ("abandoned", "5Ours", Action.DEFER)
    assert record.degraded is None


def test_a_caller_that_says_it_waits_less_is_handed_to_stage2_before_nobody(
    infeasible: LiveBundle,
) -> None:
    """Nobody signs how long a caller waits."""

    class Gate(Expert):
        """Answers once it is opened."""

        def __init__(self) -> None:
            super().__init__()
            self.opened = asyncio.Event()

        async def ask(self, content: bytes, timeout_s: float) -> float:
            await super().ask(content, timeout_s)
            await self.opened.wait()
            return self.probability

    # One at work; then the patient one, which came first, and one that says it is in a hurry.
    waits_s = {0: 500.0, 1: 500.0, 2: 100.0}
    images = {number: encoded((number, 60, 60)) for number in waits_s}

    async def run() -> list[bytes]:
        slot, expert = BundleSlot(), Gate()
        slot.swap(infeasible)
        bridge = Bridge(expert, max_in_flight=1, max_waiting=8, clock=time.monotonic)
        cascade = Cascade(
            slot,
            Batcher(BatchSettings()),
            bridge,
            engine=EngineSettings(workers=1),
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
        )
        came = time.monotonic()
        budget = TimeBudget(deadline_s=600.0, margin_s=1.0, reserve_s=0.0)
        tasks = []
        # The patient one reaches the queue last.
        for number, waiting in ((0, 0), (2, 1), (1, 2)):
            deadline = budget.deadline(came + number, waits_s[number])
            request = Request(f"request-{number}", "5Validator", 1, images[number], deadline)
            tasks.append(asyncio.create_task(cascade.answer(request)))
            while bridge_waits(bridge) < waiting or not expert.asked:
                await asyncio.sleep(0.001)
        expert.opened.set()
        await asyncio.gather(*tasks)
        await cascade.close()
        return expert.asked

    assert asyncio.run(run()) == [base64.b64decode(images[number]) for number in (0, 1, 2)]


def bridge_waits(bridge: Bridge) -> int:
    return bridge.stats.waiting
