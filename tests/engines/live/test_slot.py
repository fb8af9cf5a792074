from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from engines.engine import EngineDescription
from engines.errors import UnknownBundle
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.slot import BundleSlot, Lease
from engines.store.bundle import Provenance
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from tests.support.engines import Watched

Fresh = Callable[[], LiveBundle]


def closes(bundle: LiveBundle) -> int:
    assert isinstance(bundle.engine, Watched)
    return bundle.engine.closed


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, bundle_files: Path, provenance: Provenance) -> Path:
    store = Store(tmp_path_factory.mktemp("slot"))
    return store.path(store.publish(bundle_files, provenance))


@pytest.fixture(scope="module")
def fresh(directory: Path) -> Fresh:
    """Loads a bundle, each time anew."""

    def load() -> LiveBundle:
        live = load_bundle(directory, threads=1)
        return replace(live, engine=Watched(live.engine))

    return load


class TestLease:
    def test_lends_what_is_live(self, fresh: Fresh) -> None:
        slot, bundle = BundleSlot(), fresh()
        assert slot.generation == 0
        assert slot.swap(bundle) == slot.generation == 1
        with slot.lease() as lease:
            assert (lease.generation, lease.bundle) == (1, bundle)

    def test_of_an_engine_that_does_not_close_as_it_should_ends_all_the_same(self, fresh: Fresh) -> None:
        told = list[int]()
        slot, bundle = BundleSlot(on_closed=lambda live: told.append(live.generation)), fresh()

        class Broken(Watched):
            def close(self) -> None:
                super().close()
                raise RuntimeError("a fault of native code")

        slot.swap(replace(bundle, engine=Broken(bundle.engine)))
        with pytest.raises(RuntimeError, match="a fault"):
            slot.close()
        assert told == [1]
        assert slot.leases == {}

    def test_of_an_empty_slot_is_refused(self) -> None:
        with pytest.raises(UnknownBundle, match="no bundle is live"), BundleSlot().lease():
            pass

    def test_keeps_the_old_bundle_open_across_a_swap(self, fresh: Fresh, plain_images: Callable[..., Pixels]) -> None:
        slot, old, new = BundleSlot(), fresh(), fresh()
        slot.swap(old)
        with slot.lease() as first:
            with slot.lease():
                slot.swap(new)
                with slot.lease() as later:
                    assert later.bundle is new
            assert closes(old) == 0
            first.bundle.engine.infer(plain_images([[1, 2, 3]]))
        assert (closes(old), closes(new)) == (1, 0)

    def test_ends_with_an_exception_too(self, fresh: Fresh) -> None:
        slot, old = BundleSlot(), fresh()
        slot.swap(old)
        with pytest.raises(UnknownBundle), slot.lease(), BundleSlot().lease():
            pass
        slot.swap(fresh())
        assert closes(old) == 1

    def test_that_ends_before_the_swap_leaves_the_bundle_open(self, fresh: Fresh) -> None:
        slot, bundle = BundleSlot(), fresh()
        slot.swap(bundle)
        with slot.lease():
            pass
        assert closes(bundle) == 0


class TestSwap:
    def test_closes_what_nobody_uses_at_once(self, fresh: Fresh) -> None:
        slot, bundles = BundleSlot(), [fresh() for _ in range(4)]
        assert [slot.swap(bundle) for bundle in bundles] == [1, 2, 3, 4]
        assert [closes(bundle) for bundle in bundles] == [1, 1, 1, 0]

    def test_tells_what_was_closed_after_it_was(self, fresh: Fresh) -> None:
        told: list[tuple[int, int]] = []
        slot = BundleSlot(on_closed=lambda lease: told.append((lease.generation, closes(lease.bundle))))
        for _ in range(3):
            slot.swap(fresh())
        slot.close()
        assert told == [(1, 1), (2, 1), (3, 1)]


class TestStandby:
    def test_the_bundle_before_stays_loaded_until_the_next_swap(self, fresh: Fresh) -> None:
        slot, bundles = BundleSlot(standby=True), [fresh() for _ in range(3)]
        for bundle in bundles:
            slot.swap(bundle)
        assert [closes(bundle) for bundle in bundles] == [1, 0, 0]
        assert slot.standby is bundles[1]

    def test_a_rollback_changes_places_and_generations_go_on_growing(self, fresh: Fresh) -> None:
        slot, old, new = BundleSlot(standby=True), fresh(), fresh()
        slot.swap(old)
        with slot.lease() as before:
            slot.swap(new)
            assert slot.rollback() == 3
            with slot.lease() as after:
                assert (before.bundle, after.bundle) == (old, old)
                assert (before.generation, after.generation) == (1, 3)
            assert slot.standby is new
        slot.swap(fresh())
        assert (closes(old), closes(new)) == (0, 1)

    def test_it_can_be_released_and_closes_with_its_last_lease(self, fresh: Fresh) -> None:
        slot, old = BundleSlot(standby=True), fresh()
        slot.swap(old)
        with slot.lease():
            slot.swap(fresh())
            slot.release_standby()
            assert closes(old) == 0
        assert (closes(old), slot.standby) == (1, None)
        with pytest.raises(UnknownBundle, match="no bundle stands by"):
            slot.rollback()
        slot.release_standby()

    def test_closing_closes_it_too(self, fresh: Fresh) -> None:
        slot, old, new = BundleSlot(standby=True), fresh(), fresh()
        slot.swap(old)
        slot.swap(new)
        slot.close()
        assert (closes(old), closes(new)) == (1, 1)


class TestClose:
    def test_retires_the_live_bundle(self, fresh: Fresh) -> None:
        slot, bundle = BundleSlot(), fresh()
        slot.swap(bundle)
        with slot.lease():
            slot.close()
            assert closes(bundle) == 0
            with pytest.raises(UnknownBundle), slot.lease():
                pass
        assert closes(bundle) == 1
        slot.close()
        assert closes(bundle) == 1

    def test_generations_go_on_growing(self, fresh: Fresh) -> None:
        """Whoever compares generations must never see an old number on a new bundle."""
        slot = BundleSlot()
        slot.swap(fresh())
        slot.close()
        assert slot.swap(fresh()) == 2


class Interrupted:
    """A lock after whose next release, and before the thread goes on, something else happens."""

    def __init__(self, lock: threading.Lock, meanwhile: Callable[[], object]) -> None:
        self._lock = lock
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()


def test_a_swap_in_the_middle_of_a_loans_end_closes_once(fresh: Fresh) -> None:
    slot, old, new = BundleSlot(), fresh(), fresh()
    slot.swap(old)
    with slot.lease():
        slot._lock = Interrupted(slot._lock, lambda: slot.swap(new))  # type: ignore[assignment]
    assert (closes(old), closes(new)) == (1, 0)


@dataclass
class Counted:
    """Stands for an engine where hundreds are needed and none has to infer."""

    number: int
    closed: int = 0

    def infer(self, batch: Pixels) -> Stage1Outputs:
        raise NotImplementedError

    def warm_up(self, most: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1

    def describe(self) -> EngineDescription:
        raise NotImplementedError


@dataclass
class Loan:
    manager: AbstractContextManager[Lease]
    lease: Lease
    engine: Counted = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.lease.bundle.engine, Counted)
        self.engine = self.lease.bundle.engine


def machine(template: LiveBundle) -> type[RuleBasedStateMachine]:
    """Any order of leases, returns and swaps, compared with a model that remembers who has lent what."""

    class SlotMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.slot = BundleSlot()
            self.made: list[Counted] = []
            self.live: Counted | None = None
            self.loans: list[Loan] = []
            self.newest = 0

        @rule()
        def swap(self) -> None:
            engine = Counted(len(self.made))
            self.made.append(engine)
            generation = self.slot.swap(replace(template, engine=engine))
            assert generation > self.newest
            self.newest, self.live = generation, engine

        @precondition(lambda self: self.live is not None)
        @rule()
        def lease(self) -> None:
            manager = self.slot.lease()
            self.loans.append(Loan(manager, manager.__enter__()))
            assert self.loans[-1].engine is self.live
            assert self.loans[-1].lease.generation == self.newest

        @precondition(lambda self: bool(self.loans))
        @rule(which=st.integers(0, 9), failing=st.booleans())
        def give_back(self, which: int, *, failing: bool) -> None:
            loan = self.loans.pop(which % len(self.loans))
            error = RuntimeError("the request failed") if failing else None
            try:
                loan.manager.__exit__(None if error is None else RuntimeError, error, None)
            except RuntimeError as raised:
                assert raised is error  # noqa: PT017  the loan ends and the request's own error goes on

        @rule()
        def close(self) -> None:
            self.slot.close()
            self.live = None

        @invariant()
        def closed_exactly_what_nobody_can_use(self) -> None:
            in_use = [loan.engine for loan in self.loans] + [self.live]
            for engine in self.made:
                assert engine.closed == (not any(engine is other for other in in_use))

    return SlotMachine


def test_closes_every_bundle_once_and_only_when_nobody_can_use_it(fresh: Fresh) -> None:
    template = fresh()
    run_state_machine_as_test(
        machine(template), settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
    template.close()


class Load:
    """Threads that ask without pause, each watching its own generations."""

    def __init__(self, slot: BundleSlot, batch: Pixels, expected: Stage1Outputs, workers: int) -> None:
        self.failures: list[object] = []
        self.asked = [0] * workers
        self._slot, self._batch, self._expected = slot, batch, expected
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(worker,)) for worker in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, worker: int) -> None:
        newest = 0
        while not self._done.is_set():
            try:
                with self._slot.lease() as lease:
                    answer = lease.bundle.engine.infer(self._batch).logits
                    right = np.array_equal(answer, self._expected.logits) and not closes(lease.bundle)
                    if not right or lease.generation < newest:
                        self.failures.append((worker, lease.generation, newest))
                    newest = lease.generation
            except Exception as error:  # noqa: BLE001  any error is a failed request
                self.failures.append(error)
            self.asked[worker] += 1


def test_under_load_no_request_meets_a_closed_engine(fresh: Fresh, plain_images: Callable[..., Pixels]) -> None:
    """A closed engine would refuse to infer."""
    told: list[int] = []
    slot = BundleSlot(on_closed=lambda lease: told.append(lease.generation))
    batch = plain_images([[200, 100, 50], [0, 0, 0]])
    bundles = [fresh() for _ in range(41)]
    slot.swap(bundles[0])

    with Load(slot, batch, bundles[0].engine.infer(batch), workers=4) as load:

        def swap(mine: list[LiveBundle]) -> None:
            for bundle in mine:
                slot.swap(bundle)
                seen = list(load.asked)
                while any(now == then for now, then in zip(load.asked, seen, strict=True)) and not load.failures:
                    time.sleep(0.0005)

        swappers = [threading.Thread(target=swap, args=(bundles[1 + k :: 2],)) for k in range(2)]
        for thread in swappers:
            thread.start()
        for thread in swappers:
            thread.join()
    slot.close()
    assert load.failures == []
    assert [closes(bundle) for bundle in bundles] == [1] * 41
    assert sorted(told) == list(range(1, 42))
