"""Bundles go to another place and come back, or are refused; never half of one."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.errors import BundleRefused, StoreError, UnknownBundle
from engines.store.bundle import Provenance
from engines.store.remote_store import pull_bundle, push_bundle
from engines.store.store import Store
from tests.support.ports import free_port

fsspec = pytest.importorskip("fsspec")
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that speaks S3."""
    pytest.importorskip("s3fs")
    if "MOTO_PYTHON" not in os.environ:
        pytest.skip("MOTO_PYTHON names no interpreter that has moto[server]")
    port = free_port()
    command = [os.environ["MOTO_PYTHON"], "-m", "moto.server", "-p", str(port)]
    # Its packages are its own.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(command, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            until = time.monotonic() + LIMIT_S
            while not listens(port):
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            fsspec.filesystem("s3").mkdir("engines")
            yield "s3://engines"
        server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        yield f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
        return
    yield f"file://{tmp_path / 'remote'}" if request.param == "file" else "memory://remote/engines"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bundle(store: Store, bundle_files: Path, provenance: Provenance) -> str:
    return store.publish(bundle_files, provenance)


def remote(url: str) -> tuple[Any, str]:
    files, base = fsspec.core.url_to_fs(url)
    return files, base


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".import")]


def test_a_bundle_goes_there_and_comes_back_the_same(store: Store, bundle: str, url: str, tmp_path: Path) -> None:
    assert push_bundle(store, bundle[:5], url) == bundle
    assert push_bundle(store, bundle, url) == bundle
    there = Store(tmp_path / "there")
    assert pull_bundle(there, url) == bundle
    assert there.verify(bundle) == store.verify(bundle)
    assert there.current() is None
    assert leftovers(there.root) == []


def test_the_newest_is_fetched_unless_one_is_named(
    store: Store, bundle: str, url: str, tmp_path: Path, bundle_files: Path, provenance: Provenance
) -> None:
    newer = Path(shutil.copytree(bundle_files, tmp_path / "newer"))
    (newer / "report.html").write_text("newer")
    later = provenance.model_copy(update={"created_at": "2027-01-01T00:00:00+00:00"})
    other = store.publish(newer, later)
    for one in (other, bundle):
        push_bundle(store, one, url)
    there = Store(tmp_path / "there")
    assert pull_bundle(there, url) == other
    assert pull_bundle(there, url, bundle) == bundle
    with pytest.raises(UnknownBundle, match="no whole bundle that is called 'zz'"):
        pull_bundle(there, url, "zz")


@pytest.mark.parametrize("damage", ["changed", "longer", "missing", "name", "other id"])
def test_what_is_damaged_there_is_refused_and_leaves_nothing(
    store: Store, bundle: str, url: str, tmp_path: Path, damage: str
) -> None:
    push_bundle(store, bundle, url)
    files, base = remote(url)
    graph, manifest = f"{base}/{bundle}/model.onnx", f"{base}/{bundle}/manifest.json"
    content = files.cat_file(graph)
    told = json.loads(files.cat_file(manifest))
    match damage:
        case "changed":
            files.pipe_file(graph, content[:-1] + b"\0")
        case "longer":
            files.pipe_file(graph, content + b"\0" * 100)
        case "missing":
            files.rm_file(graph)
        case "name":
            told["files"]["../../outside"] = told["files"].pop("model.onnx")
        case _:
            told["bundle_id"] = "0" * 16
    if damage in {"name", "other id"}:
        files.pipe_file(manifest, json.dumps(told).encode())
    there = Store(tmp_path / "there")
    with pytest.raises((BundleRefused, FileNotFoundError)):
        pull_bundle(there, url)
    assert there.bundles() == []
    assert not there.root.exists() or leftovers(there.root) == []
    assert not (tmp_path / "outside").exists()


def test_a_push_that_was_cut_short_is_no_bundle_and_goes_on(
    store: Store, bundle: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, base = remote(url)
    sent: list[str] = []
    put = files.put_file

    def cut_short(source: str, target: str, **more: Any) -> None:
        if len(sent) == 3:
            raise OSError("the line is dead")
        sent.append(target)
        put(source, target, **more)

    # Of an address there is one file system.
    monkeypatch.setattr(files, "put_file", cut_short)
    with pytest.raises(OSError, match="the line is dead"):
        push_bundle(store, bundle, url)
    with pytest.raises(UnknownBundle, match="no whole bundle at all"):
        pull_bundle(Store(tmp_path / "there"), url)
    monkeypatch.undo()
    again: list[str] = []

    def noted(source: str, target: str, **more: Any) -> None:
        again.append(target)
        put(source, target, **more)

    monkeypatch.setattr(files, "put_file", noted)
    push_bundle(store, bundle, url)
    assert not set(again) & set(sent)
    assert pull_bundle(Store(tmp_path / "there"), url) == bundle
    assert base


def test_what_does_not_arrive_as_it_was_sent_is_told(
    store: Store, bundle: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, base = remote(url)
    monkeypatch.setattr(files, "put_file", lambda _, to, **__: files.pipe_file(to, b"noise"))
    with pytest.raises(StoreError, match="is not there as it was sent"):
        push_bundle(store, bundle, url)
    assert not files.exists(f"{base}/{bundle}/manifest.json")


def test_a_package_that_is_missing_is_named(store: Store, bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StoreError, match=r"gs://bucket/engines: `pip install gcsfs` is needed"):
        push_bundle(store, bundle, "gs://bucket/engines")
    with pytest.raises(StoreError, match="no file system is known for it"):
        push_bundle(store, bundle, "nowhere://bucket")
    with pytest.raises(StoreError, match="an address holds no password"):
        push_bundle(store, bundle, "ftp://me:secret@host/engines")


def test_without_the_library_it_says_what_to_install(
    store: Store, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Callable[..., object]:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(StoreError, match="`pip install fsspec` is needed"):
        push_bundle(store, bundle, "s3://bucket/engines")
