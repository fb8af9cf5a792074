"""Who uses a bundle keeps it from being removed, and nobody keeps it after its end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engines.errors import StoreError
from engines.store.bundle import Provenance
from engines.store.bundle_record import record_path, records_of
from engines.store.holds import Hold, Holds, held, unheld
from engines.store.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOLDER = """
import sys, time
from pathlib import Path
from engines.store.bundle import Provenance
from engines.store.holds import Hold
hold = Hold(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def publish(store: Store, tmp_path: Path, bundle_files: Path, provenance: Provenance) -> Callable[[str], str]:
    """Publishes a bundle whose report carries a note."""

    def publish_one(note: str) -> str:
        files = Path(shutil.copytree(bundle_files, tmp_path / f"files {note}"))
        (files / "report.html").write_text(note)
        return store.publish(files, provenance)

    return publish_one


def test_a_held_bundle_is_neither_pruned_nor_discarded(store: Store, publish: Callable[..., str]) -> None:
    old, new = publish("a"), publish("b")
    with held(store.root, old):
        assert store.prune(1) == []
        with pytest.raises(StoreError, match="a process loads, serves or copies"):
            store.discard(old)
    assert store.prune(1) == [old]
    assert store.path(new).exists()


def test_a_process_that_is_killed_holds_nothing_any_more(store: Store, publish: Callable[..., str]) -> None:
    old, _ = publish("a"), publish("b")
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.root), old], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert store.prune(1) == []
        child.kill()
        child.wait()
        assert store.prune(1) == [old]


def test_several_holds_of_one_process_are_counted(store: Store, publish: Callable[..., str]) -> None:
    old, _ = publish("a"), publish("b")
    holds = Holds(store.root)
    holds.begin(old)
    holds.begin(old)
    holds.end(old)
    assert store.prune(1) == []
    holds.end(old)
    holds.end(old)
    assert store.prune(1) == [old]


def test_who_comes_while_a_bundle_is_removed_does_not_wait(tmp_path: Path) -> None:
    with unheld(tmp_path, "a") as free:
        assert free
        Hold(tmp_path, "a").release()
    with held(tmp_path, "a"), unheld(tmp_path, "a") as free:
        assert not free


def test_a_store_that_cannot_be_written_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "holds").write_text("no directory")
    with held(tmp_path, "a"), unheld(tmp_path, "a") as free:
        assert free


def test_the_record_of_what_was_removed_stays(store: Store, publish: Callable[..., str]) -> None:
    old, _ = publish("a"), publish("b")
    params = (store.path(old) / "scrc_params.json").read_bytes()
    assert records_of(store.root) == []
    store.prune(1)
    record = record_path(store.root, old)
    assert records_of(store.root) == [record]
    assert (record / "scrc_params.json").read_bytes() == params
    assert not (record / "model.onnx").exists()
    with pytest.raises(StoreError, match=f"the weights of {old} were removed; its record is in"):
        store.path(old)


def test_a_rolled_back_bundle_only_stays_while_a_rollback_could_go_there(
    store: Store, publish: Callable[..., str]
) -> None:
    made = [publish(name) for name in "abc"]
    for bundle in made[:2]:
        store.activate(bundle, now=NOW)
    store.rollback(now=NOW)
    assert store.prune(5) == []
    store.activate(made[2], now=NOW)
    assert store.prune(5) == [made[1]]
    assert record_path(store.root, made[1]).is_dir()
