"""Requests that share engine calls: the answers of each alone, and failures of each alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from engines.errors import DeadlineExceeded, InferenceError, QueueFull
from engines.live.batcher import Batcher
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.settings import BatchSettings
from engines.live.slot import BundleSlot
from engines.store.bundle import Provenance
from engines.store.store import Store
from stage1.errors import OutputsError
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, PreprocessSettings
from tests.support.engines import Watched

FOREVER = 1e9
SIZE_PX = 32


@dataclass
class Slow(Watched):
    """A real engine that notes its batches, can be held up, and cannot bear some images."""

    batches: list[int] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    poison: int = 255
    most: int = 1000
    error: type[Exception] = InferenceError

    def infer(self, batch: Pixels) -> Stage1Outputs:
        assert not self.closed
        self.batches.append(len(batch))
        self.started.set()
        assert self.go.wait(120)
        if (batch[:, 0, 0, 0] == self.poison).any():
            raise self.error("poison")
        if len(batch) > self.most:
            raise self.error(f"more than {self.most} images")
        return super().infer(batch)


@pytest.fixture
def bundle(tmp_path: Path, bundle_files: Path, provenance: Provenance) -> LiveBundle:
    store = Store(tmp_path / "store")
    loaded = load_bundle(store.path(store.publish(bundle_files, provenance)), threads=1)
    slow = Slow(loaded.engine)
    slow.go.set()
    return replace(loaded, engine=slow)


def slow_of(bundle: LiveBundle) -> Slow:
    assert isinstance(bundle.engine, Slow)
    return bundle.engine


@pytest.fixture
def slot(bundle: LiveBundle) -> BundleSlot:
    slot = BundleSlot()
    slot.swap(bundle)
    return slot


@pytest.fixture
def open_batcher() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(**changes: object) -> Batcher:
        made.append(Batcher(BatchSettings.model_validate({"max_delay_s": 0.0} | changes)))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def image_of(colour: int) -> Pixels:
    return np.full((3, SIZE_PX, SIZE_PX), colour, np.uint8)


def ask(batcher: Batcher, slot: BundleSlot, colour: int, *, deadline: float = FOREVER) -> Future[Stage1Outputs]:
    return batcher.submit(slot.lease(), image_of(colour), deadline=deadline)


def held_up(batcher: Batcher, slot: BundleSlot, bundle: LiveBundle) -> Future[Stage1Outputs]:
    """Keep the worker busy with one image, so that what comes next waits."""
    slow = slow_of(bundle)
    slow.go.clear()
    slow.started.clear()
    first = ask(batcher, slot, 7)
    assert slow.started.wait(120)
    return first


def test_what_waits_together_is_computed_together_and_answered_each(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(max_batch=4), slow_of(bundle)
    first = held_up(batcher, slot, bundle)
    futures = [ask(batcher, slot, colour) for colour in range(10, 16)]
    slow.go.set()
    answers = [future.result(120) for future in [first, *futures]]
    assert slow.batches == [1, 4, 2]
    for colour, answer in zip([7, *range(10, 16)], answers, strict=True):
        alone = slow.engine.infer(image_of(colour)[None])
        assert answer.logits == pytest.approx(alone.logits, abs=1e-5)
        assert answer.select_score == pytest.approx(alone.select_score, abs=1e-5)
    batcher.close()
    assert batcher.stats.images == 7
    assert batcher.stats.batches == 3


@pytest.mark.parametrize("error", [InferenceError, OutputsError, RuntimeError])
def test_a_poisoned_image_fails_alone(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher], error: type[Exception]
) -> None:
    batcher, slow = open_batcher(max_batch=8), slow_of(bundle)
    slow.error = error
    first = held_up(batcher, slot, bundle)
    colours = [1, 2, 255, 4, 5, 6, 7, 8]
    futures = [ask(batcher, slot, colour) for colour in colours]
    slow.go.set()
    first.result(120)
    failed = [future.exception(30) for future in futures]
    assert [colour for colour, found in zip(colours, failed, strict=True) if found is not None] == [255]
    assert "poison" in str(failed[2])
    assert ask(batcher, slot, 3).result(120) is not None
    assert batcher.stats.failed == 1


@pytest.mark.parametrize(("error", "told"), [(RuntimeError, 1), (InferenceError, 0)])
def test_what_nobody_expected_of_an_engine_is_in_the_log_with_its_traceback(
    bundle: LiveBundle,
    slot: BundleSlot,
    open_batcher: Callable[..., Batcher],
    error: type[Exception],
    told: int,
) -> None:
    """Also where every image is answered, because the halves can be computed."""
    batcher, slow = open_batcher(max_batch=8), slow_of(bundle)
    slow.error, slow.most = error, 2
    with capture_logs() as logs:
        first = held_up(batcher, slot, bundle)
        futures = [ask(batcher, slot, colour) for colour in range(1, 9)]
        slow.go.set()
        first.result(120)
        assert all(future.exception(30) is None for future in futures)
        assert slow.batches == [1, 8, 4, 2, 2, 4, 2, 2]
    assert [(entry["event"], type(entry["exc_info"])) for entry in logs] == [("engine_failed", error)] * told


def test_a_poisoned_image_is_in_the_log_once_and_whoever_asked_is_told(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(max_batch=8), slow_of(bundle)
    slow.error = RuntimeError
    with capture_logs() as logs:
        first = held_up(batcher, slot, bundle)
        futures = [ask(batcher, slot, colour) for colour in (1, 255, 3, 4)]
        slow.go.set()
        first.result(120)
        assert isinstance(futures[1].exception(30), InferenceError)
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("engine_failed", logs[0]["exc_info"])]
    assert isinstance(logs[0]["exc_info"], RuntimeError)


def test_an_engine_that_fails_on_every_batch_does_not_fill_the_log(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(max_batch=1), slow_of(bundle)
    slow.error = RuntimeError
    slow.go.set()
    with capture_logs() as logs:
        for _ in range(20):
            assert isinstance(ask(batcher, slot, 255).exception(30), InferenceError)
    assert [entry["event"] for entry in logs] == ["engine_failed"]
    assert batcher.stats.batches_by_size == {1: 20}


def test_a_batch_that_cannot_even_begin_fails_and_the_next_is_computed(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = open_batcher()

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(batcher, "_compute", no_memory)
        with pytest.raises(InferenceError, match="MemoryError"):
            ask(batcher, slot, 1).result(120)
    assert ask(batcher, slot, 2).result(120) is not None
    slot.close()
    assert slow_of(bundle).closed == 1


def test_an_expired_image_is_not_computed(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(), slow_of(bundle)
    first = held_up(batcher, slot, bundle)
    late = ask(batcher, slot, 20, deadline=time.monotonic() + 0.02)
    in_time = ask(batcher, slot, 21)
    time.sleep(0.05)
    slow.go.set()
    first.result(120)
    assert in_time.result(120) is not None
    with pytest.raises(DeadlineExceeded):
        late.result(120)
    assert slow.batches == [1, 1]
    assert batcher.stats.expired == 1


def test_a_cancelled_image_is_not_computed(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(), slow_of(bundle)
    first = held_up(batcher, slot, bundle)
    unwanted, wanted = ask(batcher, slot, 20), ask(batcher, slot, 21)
    assert unwanted.cancel()
    assert not first.cancel()
    slow.go.set()
    assert wanted.result(120) is not None
    with pytest.raises(CancelledError):
        unwanted.result(120)
    assert slow.batches == [1, 1]


def test_a_full_queue_refuses_and_the_lease_stays_the_callers(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(capacity=1), slow_of(bundle)
    held_up(batcher, slot, bundle)
    ask(batcher, slot, 20)
    lease = slot.lease()
    with pytest.raises(QueueFull):
        batcher.submit(lease, image_of(21), deadline=FOREVER)
    slow.go.set()
    batcher.close()
    slot.close()
    assert not slow.closed
    lease.release()
    assert slow_of(bundle).closed == 1


def test_another_size_or_type_is_refused_at_the_door(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher = open_batcher()
    with slot.lease() as lease:
        for image in (np.zeros((3, 8, 8), np.uint8), np.zeros((3, SIZE_PX, SIZE_PX), np.float32)):
            with pytest.raises(InferenceError, match=r"expected uint8 \(3, 32, 32\)"):
                batcher.submit(lease, image, deadline=FOREVER)  # type: ignore[arg-type]
    assert slow_of(bundle).batches == []


def test_an_engine_that_does_not_come_back_holds_nobody_up_at_the_end(bundle: LiveBundle) -> None:
    slow = slow_of(bundle)
    slow.go.clear()
    slot = BundleSlot()
    slot.swap(bundle)
    batcher = Batcher(BatchSettings(max_batch=1))
    stuck = batcher.submit(slot.lease(), image_of(1), deadline=FOREVER)
    assert slow.started.wait(30)
    waiting = batcher.submit(slot.lease(), image_of(2), deadline=FOREVER)
    with capture_logs() as logs:
        batcher.close(timeout_s=0.05)
        # Whoever closes it once more does not wait once more.
        batcher.close()
    with pytest.raises(InferenceError, match="the batcher is closed"):
        waiting.result(0)
    assert [(entry["event"], entry["calls"], entry["waiting"]) for entry in logs] == [
        ("engine_does_not_come_back", 1, 1)
    ]
    assert slot.leases == {1: 1}
    slow.go.set()
    assert len(stuck.result(30)) == 1
    batcher.close()
    slot.close()


def test_a_batch_never_mixes_generations_and_no_engine_closes_under_one(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher], tmp_path: Path
) -> None:
    batcher, old = open_batcher(), slow_of(bundle)
    first = held_up(batcher, slot, bundle)
    before = [ask(batcher, slot, colour) for colour in (1, 2)]
    loaded = load_bundle(next((tmp_path / "store" / "bundles").iterdir()), threads=1)
    new = Slow(loaded.engine)
    new.go.set()
    slot.swap(replace(loaded, engine=new))
    after = [ask(batcher, slot, colour) for colour in (3, 4)]
    assert not old.closed
    old.go.set()
    for future in [first, *before, *after]:
        assert future.result(120) is not None
    assert (old.batches, new.batches) == ([1, 2], [2])
    batcher.close()
    assert (old.closed, new.closed) == (1, 0)
    assert batcher.stats.images_by_generation == {1: 3, 2: 2}


def test_a_swap_to_another_shape_answers_what_waits_for_either(
    bundle: LiveBundle,
    slot: BundleSlot,
    open_batcher: Callable[..., Batcher],
    tmp_path: Path,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
) -> None:
    batcher, old = open_batcher(), slow_of(bundle)
    held_up(batcher, slot, bundle)
    before = [ask(batcher, slot, colour) for colour in (1, 2, 1)]
    engine = write_onnx(tmp_path / "wide.onnx", size_px=48, width_px=80)
    preprocess = PreprocessSettings(size_px=48, geometry="wide")
    files = write_bundle_files(tmp_path / "wide", engine=engine, preprocess=preprocess)
    store = Store(tmp_path / "wide store")
    slot.swap(load_bundle(store.path(store.publish(files, provenance)), threads=1))
    with slot.lease() as lease, pytest.raises(InferenceError, match=r"expected uint8 \(3, 48, 80\)"):
        batcher.submit(lease, image_of(3), deadline=FOREVER)
    wide = [batcher.submit(slot.lease(), np.full((3, 48, 80), c, np.uint8), deadline=FOREVER) for c in (3, 4)]
    old.go.set()
    answers = [float(future.result(120).select_score[0]) for future in (*before, *wide)]
    assert answers == pytest.approx([0.04 * colour for colour in (1, 2, 1, 3, 4)])


def test_closing_computes_what_waits_and_takes_nothing_more(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher, slow = open_batcher(), slow_of(bundle)
    first = held_up(batcher, slot, bundle)
    waiting = ask(batcher, slot, 20)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    slow.go.set()
    closing.join(120)
    assert first.done()
    assert waiting.result(0) is not None
    with slot.lease() as lease, pytest.raises(InferenceError, match="closed"):
        batcher.submit(lease, image_of(1), deadline=FOREVER)


def test_many_threads_get_each_its_own_answer(
    bundle: LiveBundle, slot: BundleSlot, open_batcher: Callable[..., Batcher]
) -> None:
    batcher = open_batcher(workers=2, max_delay_s=0.001)
    expected = {colour: slow_of(bundle).engine.infer(image_of(colour)[None]).logits for colour in range(64)}
    wrong: list[int] = []

    def client(number: int) -> None:
        for turn in range(20):
            colour = (number * 20 + turn) % 64
            logits = ask(batcher, slot, colour).result(120).logits
            if not np.allclose(logits, expected[colour], atol=1e-5):
                wrong.append(colour)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(60)
    assert wrong == []
    batcher.close()
    assert batcher.stats.images == 320
    assert batcher.stats.batches < 320
