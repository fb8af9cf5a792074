from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import engines.store.store
from engines.errors import BundleRefused, PointerMoved, StoreError, UnknownBundle
from engines.live.load.load_bundle import load_bundle
from engines.store.bundle import Provenance
from engines.store.file_names import ENGINE, MANIFEST, REQUIRED
from engines.store.records import HISTORY, PUBLISHED, REVOKED, RevocationEntry, last_move
from engines.store.store import Store
from stage1.errors import ArtifactError

CHILD = Path(__file__).with_name("store_child.py")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[..., str]


def run_child(*arguments: object) -> None:
    subprocess.run([sys.executable, str(CHILD), *map(str, arguments)], check=True, timeout=900)


def leftovers(store: Store) -> list[str]:
    return [path.name for path in store.root.rglob("*") if ".partial" in path.name or path.name.startswith(".incoming")]


@pytest.fixture
def publish(store: Store, tmp_path: Path, bundle_files: Path, provenance: Provenance) -> Publish:
    """Publishes the bundle whose report carries a note, the older the shorter the note."""

    def publish_one(note: str = "") -> str:
        files = Path(shutil.copytree(bundle_files, tmp_path / f"files {note}", dirs_exist_ok=True))
        (files / "report.html").write_text(note)
        created = (NOW + timedelta(days=len(note))).isoformat()
        return store.publish(files, provenance.model_copy(update={"created_at": created}))

    return publish_one


class TestPublish:
    def test_the_bundle_is_complete_and_loads(self, store: Store, publish: Publish) -> None:
        bundle = publish()
        store.verify(bundle)
        load_bundle(store.path(bundle), threads=1).close()
        assert leftovers(store) == []

    def test_does_not_make_it_current(self, store: Store, publish: Publish) -> None:
        publish()
        assert store.current() is None
        assert [(row.current, row.previous) for row in store.bundles()] == [(False, False)]

    def test_the_same_files_again_change_nothing(self, store: Store, publish: Publish) -> None:
        bundle = publish()
        before = {path: path.stat().st_mtime_ns for path in store.path(bundle).iterdir()}
        assert publish() == bundle
        assert {path: path.stat().st_mtime_ns for path in store.path(bundle).iterdir()} == before
        assert leftovers(store) == []

    def test_the_name_is_the_content(
        self, store: Store, publish: Publish, bundle_files: Path, provenance: Provenance
    ) -> None:
        other_night = provenance.model_copy(update={"run": "another", "created_at": "2027-01-01T00:00:00+00:00"})
        plain = store.publish(bundle_files, provenance)
        assert store.publish(bundle_files, other_night) == plain
        assert len({plain, publish("a"), publish("b")}) == 3

    @pytest.mark.parametrize("missing", REQUIRED)
    def test_an_incomplete_bundle_is_refused(
        self, store: Store, tmp_path: Path, bundle_files: Path, provenance: Provenance, missing: str
    ) -> None:
        files = Path(shutil.copytree(bundle_files, tmp_path / "files"))
        (files / missing).unlink()
        with pytest.raises(BundleRefused, match=f"{missing} missing"):
            store.publish(files, provenance)
        assert store.bundles() == []
        assert leftovers(store) == []

    def test_a_manifest_among_the_files_is_not_believed(
        self, store: Store, tmp_path: Path, bundle_files: Path, provenance: Provenance
    ) -> None:
        files = Path(shutil.copytree(bundle_files, tmp_path / "files"))
        (files / MANIFEST).write_text('{"bundle_id": "0000000000000000"}')
        assert store.publish(files, provenance) == store.publish(bundle_files, provenance)

    def test_every_file_is_flushed_before_the_bundle_has_its_name_and_the_directory_after(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, bundle_files: Path, provenance: Provenance
    ) -> None:
        """After a power cut there is a whole bundle under its name, or none."""
        order: list[str] = []
        real_fsync, real_rename = os.fsync, Path.rename

        def fsync(descriptor: int) -> None:
            order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            real_fsync(descriptor)

        def rename(self: Path, target: Path) -> Path:
            order.append("rename")
            return real_rename(self, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "rename", rename)
        bundle = store.publish(bundle_files, provenance)
        named = order.index("rename")
        assert {path.name for path in store.path(bundle).iterdir()} <= set(order[:named])
        assert order[named - 1].startswith(".incoming-")
        assert order[named + 1 :] == ["bundles"]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
    @pytest.mark.parametrize("after", [0, 4, 8])
    def test_a_disk_that_cannot_be_written_to_leaves_nothing_behind(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        bundle_files: Path,
        provenance: Provenance,
        after: int,
        number: int,
    ) -> None:
        real = shutil.copyfile
        copied: list[Path] = []

        def copyfile(source: Path, target: Path) -> Path:
            if len(copied) == after:
                raise OSError(number, os.strerror(number))
            copied.append(source)
            return real(source, target)

        monkeypatch.setattr(shutil, "copyfile", copyfile)
        with pytest.raises(OSError, match=os.strerror(number)):
            store.publish(bundle_files, provenance)
        assert store.bundles() == []
        assert leftovers(store) == []

    def test_what_a_killed_publisher_left_is_swept(self, store: Store, publish: Publish) -> None:
        publish("a")
        dead = store.root / "bundles" / ".incoming-1-dead"
        dead.mkdir()
        (dead / ENGINE).write_bytes(b"half")
        assert [row.path.name for row in store.bundles()] == [publish("a")]
        assert leftovers(store) == []

    def test_what_a_killed_import_or_measurement_left_is_swept_after_a_day(
        self, store: Store, publish: Publish
    ) -> None:
        publish("a")
        dead, alive = store.root / ".import-dead", store.root / ".bench-alive"
        for directory in (dead, alive):
            directory.mkdir()
            (directory / ENGINE).write_bytes(b"half")
        yesterday = time.time() - 2 * 86_400
        os.utime(dead, (yesterday, yesterday))
        publish("b")
        assert (dead.exists(), alive.exists()) == (False, True)

    def test_a_store_that_another_process_holds_is_an_error_and_not_a_wait_for_ever(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish("a")
        monkeypatch.setattr(engines.store.store, "LOCK_TIMEOUT_S", 0.05)
        with FileLock(store.root / ".lock"), pytest.raises(StoreError, match="another process has held the store"):
            publish("b")


class TestActivate:
    def test_moves_the_pointer_and_remembers_where_it_was(self, store: Store, publish: Publish) -> None:
        first, second = publish("a"), publish("bb")
        one = store.activate(first, now=NOW)
        assert (one.bundle, one.previous, one.sequence) == (first, None, 1)
        two = store.activate(second, now=NOW)
        assert store.current() == two
        assert (two.bundle, two.previous, two.sequence) == (second, first, 2)
        rows = [(row.manifest.bundle_id, row.current, row.previous) for row in store.bundles()]
        assert rows == [(first, False, True), (second, True, False)]

    def test_the_current_bundle_again_changes_nothing(self, store: Store, publish: Publish) -> None:
        bundle = publish()
        pointer = store.activate(bundle, now=NOW)
        assert store.activate(bundle, now=NOW + timedelta(days=1)) == pointer

    def test_writes_a_history(self, store: Store, publish: Publish) -> None:
        first, second = publish("a"), publish("b")
        store.activate(first, now=NOW)
        store.activate(second, now=NOW, action="publish")
        store.rollback(now=NOW)
        lines = [json.loads(line) for line in (store.root / HISTORY).read_text().splitlines()]
        assert [(line["sequence"], line["bundle"], line["action"]) for line in lines] == [
            (1, first, "activate"),
            (2, second, "publish"),
            (3, first, "rollback"),
        ]
        moves = {bundle: last_move(store.root, bundle) for bundle in (first, second, "none")}
        assert {bundle: move and move.action for bundle, move in moves.items()} == {
            first: "rollback",
            second: "publish",
            "none": None,
        }

    def test_a_damaged_bundle_leaves_the_pointer_where_it_is(self, store: Store, publish: Publish) -> None:
        good, bad = publish("a"), publish("b")
        pointer = store.activate(good, now=NOW)
        with (store.path(bad) / ENGINE).open("r+b") as handle:
            handle.write(b"\x00")
        with pytest.raises(BundleRefused, match=r"model\.onnx is changed"):
            store.activate(bad, now=NOW)
        assert store.current() == pointer

    def test_a_bundle_under_another_ones_name_is_refused(self, store: Store, publish: Publish) -> None:
        bundle = publish()
        store.path(bundle).rename(store.root / "bundles" / ("0" * 16))
        with pytest.raises(BundleRefused, match=f"holds bundle {bundle}"):
            store.activate("0" * 16, now=NOW)
        assert store.current() is None

    def test_a_damaged_pointer_is_an_error_and_not_an_empty_store(self, store: Store, publish: Publish) -> None:
        store.activate(publish(), now=NOW)
        store.pointer_path.write_text("{")
        with pytest.raises(ArtifactError, match=r"current\.json"):
            store.current()


class TestInsteadOf:
    """One bundle takes the place of another: the same model, compiled for this machine."""

    def test_a_rollback_goes_where_it_would_have_gone(self, store: Store, publish: Publish) -> None:
        before, foreign, here = publish("a"), publish("bb"), publish("ccc")
        store.activate(before, now=NOW)
        store.activate(foreign, now=NOW)
        pointer = store.activate(here, now=NOW, instead_of=foreign)
        assert (pointer.bundle, pointer.previous, pointer.sequence) == (here, before, 3)
        assert store.rollback(now=NOW).bundle == before

    def test_what_somebody_chose_meanwhile_stays(self, store: Store, publish: Publish) -> None:
        foreign, chosen, here = publish("a"), publish("bb"), publish("ccc")
        with pytest.raises(PointerMoved, match=f"{foreign} is not current"):
            store.activate(here, now=NOW, instead_of=foreign)
        store.activate(foreign, now=NOW)
        pointer = store.activate(chosen, now=NOW)
        with pytest.raises(PointerMoved, match=f"{foreign} is not current any more"):
            store.activate(here, now=NOW, instead_of=foreign)
        assert store.current() == pointer


class TestRollback:
    def test_goes_back_and_forth(self, store: Store, publish: Publish) -> None:
        first, second = publish("a"), publish("b")
        store.activate(first, now=NOW)
        store.activate(second, now=NOW)
        assert store.rollback(now=NOW).bundle == first
        assert store.rollback(now=NOW).bundle == second

    def test_needs_something_to_go_back_to(self, store: Store, publish: Publish) -> None:
        for prepare in (lambda: None, lambda: store.activate(publish(), now=NOW)):
            prepare()
            with pytest.raises(UnknownBundle, match="no previous bundle"):
                store.rollback(now=NOW)

    def test_to_a_damaged_bundle_is_refused(self, store: Store, publish: Publish) -> None:
        first, second = publish("a"), publish("b")
        store.activate(first, now=NOW)
        pointer = store.activate(second, now=NOW)
        (store.path(first) / ENGINE).write_bytes(b"")
        with pytest.raises(BundleRefused):
            store.rollback(now=NOW)
        assert store.current() == pointer


class TestNames:
    def test_a_beginning_is_enough(self, store: Store, publish: Publish) -> None:
        bundle = publish()
        assert store.path(bundle[:4]) == store.path(bundle)
        assert store.activate(bundle[:4], now=NOW).bundle == bundle

    def test_the_whole_name_is_never_ambiguous(self, store: Store, publish: Publish) -> None:
        bundle = publish()
        shutil.copytree(store.path(bundle), store.path(bundle).with_name(f"{bundle}-backup"))
        assert store.path(bundle).name == bundle

    def test_an_ambiguous_beginning_is_refused(self, store: Store, publish: Publish) -> None:
        names = [publish("x" * length) for length in range(1, 18)]
        first = {name[0] for name in names if sum(other[0] == name[0] for other in names) > 1}
        assert first, "seventeen names have sixteen first digits"
        with pytest.raises(UnknownBundle, match=r"\d bundles begin with"):
            store.path(min(first))

    @pytest.mark.parametrize("name", ["", "nothing", "../store", ".incoming"])
    def test_an_unknown_name_lists_those_that_are_there(self, store: Store, publish: Publish, name: str) -> None:
        bundle = publish()
        with pytest.raises(UnknownBundle, match=f"no bundle is called '{name}'; bundles there: {bundle}"):
            store.path(name)

    def test_an_empty_store_has_none(self, store: Store) -> None:
        assert store.bundles() == []
        assert store.current() is None
        with pytest.raises(UnknownBundle, match="bundles there: none"):
            store.path("a")


class TestPrune:
    def test_keeps_the_newest_the_current_and_the_one_before(self, store: Store, publish: Publish) -> None:
        bundles = [publish("x" * age) for age in range(6)]
        store.activate(bundles[1], now=NOW)
        store.activate(bundles[0], now=NOW)
        assert store.prune(2) == bundles[2:4]
        assert [row.manifest.bundle_id for row in store.bundles()] == [*bundles[:2], *bundles[4:]]
        assert store.prune(2) == []
        assert store.rollback(now=NOW).bundle == bundles[1]
        assert leftovers(store) == []

    def test_what_was_cut_short_is_finished_by_the_next_writer(self, store: Store, publish: Publish) -> None:
        bundles = [publish("x" * age) for age in range(3)]
        path = store.path(bundles[0])
        path.rename(path.with_name(f".removed-{bundles[0]}"))
        assert [row.manifest.bundle_id for row in store.bundles()] == bundles[1:]
        publish("xxxx")
        assert not path.with_name(f".removed-{bundles[0]}").exists()

    def test_a_loaded_bundle_goes_on_serving(
        self, store: Store, publish: Publish, plain_images: Callable[..., Any]
    ) -> None:
        old = publish("x")
        live = load_bundle(store.path(old), threads=1)
        publish("xx")
        assert store.prune(1) == [old]
        assert len(live.engine.infer(plain_images([[1, 2, 3]]))) == 1
        live.close()


class TestKilled:
    """Real processes, killed at every step that an audit hook can see."""

    def test_publishing_leaves_a_whole_bundle_or_none(
        self, tmp_path: Path, bundle_files: Path, provenance: Provenance
    ) -> None:
        prepared, roots = tmp_path / "prepared", tmp_path / "roots"
        prepared.mkdir()
        run_child("killed", "publish", bundle_files, prepared, roots)
        found = {}
        for root in roots.iterdir():
            store = Store(root)
            rows = store.bundles()
            for row in rows:
                store.verify(row.manifest.bundle_id)
            found[int(root.name)] = len(rows)
        steps = sorted(found)
        assert len(steps) > 20
        # First none, and from some step on one: there is no way back.
        assert [found[step] for step in steps] == sorted(found.values())
        assert {0, 1} == set(found.values())
        for step in steps[:: len(steps) // 8]:
            store = Store(roots / str(step))
            pointer = store.activate(store.publish(bundle_files, provenance), now=NOW)
            store.verify(pointer.bundle)
            assert leftovers(store) == []

    def test_activating_leaves_the_old_bundle_current_or_the_new_one(
        self, store: Store, tmp_path: Path, publish: Publish
    ) -> None:
        old = publish("a")
        before = store.activate(old, now=NOW)
        new = publish("bb")
        roots = tmp_path / "roots"
        run_child("killed", "activate", tmp_path, store.root, roots)
        seen = {}
        for root in roots.iterdir():
            pointer = Store(root).current()
            assert pointer is not None
            assert pointer == before or (pointer.bundle, pointer.previous, pointer.sequence) == (new, old, 2)
            seen[int(root.name)] = pointer.bundle
        order = [seen[step] for step in sorted(seen)]
        assert order == sorted(order, key=[old, new].index)
        assert set(order) == {old, new}

    def test_publishers_beside_each_other_lose_nothing(self, store: Store, tmp_path: Path, bundle_files: Path) -> None:
        files = tmp_path / "many"
        for note in ("a", "b", "c", "d"):
            shutil.copytree(bundle_files, files / note)
            (files / note / "report.html").write_text(note)
        children = [
            subprocess.Popen([sys.executable, str(CHILD), "beside", str(files), str(store.root)]) for _ in range(3)
        ]
        assert [child.wait(timeout=900) for child in children] == [0, 0, 0]
        rows = store.bundles()
        assert len(rows) == 4
        for row in rows:
            store.verify(row.manifest.bundle_id)
        assert leftovers(store) == []
        history: list[dict[str, Any]] = [json.loads(line) for line in (store.root / HISTORY).read_text().splitlines()]
        assert [line["sequence"] for line in history] == list(range(1, len(history) + 1))
        pointer = store.current()
        assert pointer is not None
        assert (pointer.bundle, pointer.sequence) == (history[-1]["bundle"], len(history))
        assert pointer.previous == history[-2]["bundle"]


def live(store: Store, publish: Publish, note: str) -> str:
    """Publishes a bundle and makes it current."""
    bundle = publish(note)
    store.activate(bundle, now=NOW)
    return bundle


def current(store: Store) -> str:
    pointer = store.current()
    assert pointer is not None
    return pointer.bundle


class TestRejection:
    """A bundle that an operator rolled back stays rolled back until an operator says otherwise."""

    def test_what_was_rolled_back_is_not_activated_again_by_itself(self, store: Store, publish: Publish) -> None:
        first, second = live(store, publish, "a"), live(store, publish, "b")
        store.rollback(now=NOW)
        assert set(store.rejected()) == {second}
        with pytest.raises(BundleRefused, match=f"{second} was rolled back at .*; with --although-rejected it becomes"):
            store.activate(second, now=NOW)
        assert current(store) == first

    def test_an_operator_may_want_it_all_the_same_and_then_it_is_rejected_no_more(
        self, store: Store, publish: Publish
    ) -> None:
        _, second = live(store, publish, "a"), live(store, publish, "b")
        store.rollback(now=NOW)
        store.activate(second, now=NOW, although_rejected=True)
        assert store.rejected() == {}
        store.activate(second, now=NOW)

    def test_rolling_back_a_rollback_rejects_the_other_one(self, store: Store, publish: Publish) -> None:
        first, _ = live(store, publish, "a"), live(store, publish, "b")
        store.rollback(now=NOW)
        store.rollback(now=NOW)
        assert set(store.rejected()) == {first}

    def test_a_previous_bundle_that_is_damaged_rejects_nothing(self, store: Store, publish: Publish) -> None:
        first, second = live(store, publish, "a"), live(store, publish, "b")
        (store.path(first) / "model.onnx").write_bytes(b"")
        with pytest.raises(BundleRefused):
            store.rollback(now=NOW)
        assert store.rejected() == {}
        assert current(store) == second


class TestOrder:
    def test_bundles_are_in_the_order_of_publication_whatever_the_clock_says(
        self,
        store: Store,
        tmp_path: Path,
        write_bundle_files: Callable[..., Path],
        tiny_engine: Path,
        provenance: Provenance,
    ) -> None:
        """A clock that was set back made the newest bundle the oldest, and pruning removed what was just published."""
        made = []
        for day in (3, 2, 1):
            files = write_bundle_files(tmp_path / f"day {day}", engine=tiny_engine, note=f"day {day}")
            at = provenance.model_copy(update={"created_at": f"2026-01-0{day}T00:00:00+00:00"})
            made.append(store.publish(files, at))
        assert [row.manifest.bundle_id for row in store.bundles()] == made
        assert store.prune(2) == made[:1]

    def test_what_was_there_before_there_was_a_list_comes_first(
        self,
        store: Store,
        tmp_path: Path,
        write_bundle_files: Callable[..., Path],
        tiny_engine: Path,
        provenance: Provenance,
    ) -> None:
        old = store.publish(write_bundle_files(tmp_path / "old", engine=tiny_engine, note="old"), provenance)
        (store.root / PUBLISHED).unlink()
        early = provenance.model_copy(update={"created_at": "2020-01-01T00:00:00+00:00"})
        new = store.publish(write_bundle_files(tmp_path / "new", engine=tiny_engine, note="new"), early)
        assert [row.manifest.bundle_id for row in store.bundles()] == [old, new]

    def test_what_is_protected_is_not_pruned(self, store: Store, publish: Publish) -> None:
        made = [live(store, publish, name) for name in "abcd"]
        assert store.prune(1, protected={made[0]}) == [made[1]]

    def test_what_is_current_or_was_before_is_not_discarded(self, store: Store, publish: Publish) -> None:
        made = [live(store, publish, name) for name in "abc"]
        for bundle in made[1:]:
            with pytest.raises(StoreError, match="is current, or was before: it stays"):
                store.discard(bundle)
        store.discard(made[0])
        assert [row.manifest.bundle_id for row in store.bundles()] == made[1:]


def test_the_first_alarm_revokes_a_certificate_and_nothing_gives_it_back(store: Store) -> None:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    first = RevocationEntry(certificate="a" * 16, bundle="b" * 16, reason="misses", at=at)
    store.revoke(first)
    store.revoke(first.model_copy(update={"reason": "told again", "at": at + timedelta(days=1)}))
    other = RevocationEntry(certificate="c" * 16, bundle="b" * 16, reason="misses", at=at)
    store.revoke(other)
    with (store.root / REVOKED).open("ab") as file:
        file.write(b'{"certificate": "cut sho')
    assert store.revoked() == {"a" * 16: first, "c" * 16: other}


def test_a_decision_by_another_pointer_makes_nothing_current(store: Store, publish: Publish) -> None:
    first, second = publish("first"), publish("second")
    with pytest.raises(PointerMoved, match="another bundle has become current since"):
        store.activate(first, now=NOW, after=1)
    store.activate(first, now=NOW, after=0)
    with pytest.raises(PointerMoved, match="another bundle has become current since"):
        store.activate(second, now=NOW, after=0)
    pointer = store.activate(second, now=NOW, after=1)
    assert (pointer.bundle, pointer.previous, pointer.sequence) == (second, first, 2)
