from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.errors import BundleRefused, StoreError, UnknownBundle
from engines.live.load.load_bundle import load_bundle
from engines.store.archive import export_bundle, import_bundle
from engines.store.bundle import Provenance
from engines.store.file_names import ENGINE, MANIFEST
from engines.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture
def bundle(store: Store, bundle_files: Path, provenance: Provenance) -> str:
    return store.publish(bundle_files, provenance)


@pytest.fixture
def carried(tmp_path: Path, store: Store, bundle: str) -> Path:
    export_bundle(store, bundle[:6], tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_a_bundle_arrives_as_it_was_and_loads(tmp_path: Path, store: Store, bundle: str, carried: Path) -> None:
    there = Store(tmp_path / "there")
    assert import_bundle(there, carried) == bundle
    assert there.current() is None
    for path in store.path(bundle).iterdir():
        assert (there.path(bundle) / path.name).read_bytes() == path.read_bytes()
    load_bundle(there.path(bundle), threads=1).close()
    assert import_bundle(there, carried) == bundle
    assert [path.name for path in there.root.iterdir() if path.name.startswith(".import")] == []


def test_how_far_its_engine_may_be_away_travels_along(
    tmp_path: Path, store: Store, bundle_files: Path, provenance: Provenance
) -> None:
    bundle = store.publish(bundle_files, provenance, parity_tolerance=0.02)
    export_bundle(store, bundle, tmp_path / "bundle.tar")
    there = Store(tmp_path / "there")
    import_bundle(there, tmp_path / "bundle.tar")
    assert there.verify(bundle).parity_tolerance == 0.02


def test_the_same_bundle_is_the_same_file(tmp_path: Path, store: Store, bundle: str, carried: Path) -> None:
    export_bundle(store, bundle, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == carried.read_bytes()


def test_what_is_damaged_or_unknown_is_not_exported(tmp_path: Path, store: Store, bundle: str) -> None:
    with pytest.raises(UnknownBundle):
        export_bundle(store, "ffff", tmp_path / "x.tar")
    (store.path(bundle) / ENGINE).write_bytes(b"")
    with pytest.raises(BundleRefused, match="is changed"):
        export_bundle(store, bundle, tmp_path / "x.tar")
    assert list(tmp_path.glob("*.tar*")) == []


def test_a_file_that_exists_is_kept(tmp_path: Path, store: Store, bundle: str) -> None:
    (tmp_path / "x.tar").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        export_bundle(store, bundle, tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_text() == "mine"


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes, **changes: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    return info, content


CHANGES: dict[str, Callable[[bytes], list[Member]]] = {
    "flipped bit": lambda engine: [member(ENGINE, engine[:-1] + bytes([engine[-1] ^ 1]))],
    "longer": lambda engine: [member(ENGINE, engine + b"0")],
    "link": lambda _: [member(ENGINE, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "climbing": lambda engine: [member(f"../{ENGINE}", engine)],
    "absolute": lambda engine: [member(f"/tmp/{ENGINE}", engine)],
    "left out": lambda _: [],
    "long header": lambda engine: [member("x" * 200_000, engine)],
    "extra": lambda engine: [member(ENGINE, engine), member("extra.txt", b"x")],
    "twice": lambda engine: [member(ENGINE, engine), member(ENGINE, engine)],
}


def rewritten(source: Path, target: Path, change: str) -> None:
    """The archive with one thing about the engine changed, or with its manifest at the end."""
    with tarfile.open(source) as old:
        members = [member(info.name, old.extractfile(info).read()) for info in old]  # type: ignore[union-attr]
    if change == "manifest last":
        members = [*members[1:], members[0]]
    with tarfile.open(target, "w") as new:
        for info, content in members:
            changed = CHANGES[change](content) if info.name == ENGINE and change in CHANGES else [(info, content)]
            for each, data in changed:
                new.addfile(each, io.BytesIO(data))


@pytest.mark.parametrize("change", [*CHANGES, "manifest last"])
def test_nothing_but_what_the_manifest_says_gets_in(tmp_path: Path, carried: Path, change: str) -> None:
    rewritten(carried, tmp_path / "bad.tar", change)
    there = Store(tmp_path / "there")
    with pytest.raises(BundleRefused):
        import_bundle(there, tmp_path / "bad.tar")
    assert there.bundles() == []
    assert not (tmp_path / "model.onnx").exists()
    assert list(there.root.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\0" * 10240])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(BundleRefused):
        import_bundle(Store(tmp_path / "there"), tmp_path / "bad.tar")


def test_a_truncated_file_is_refused(tmp_path: Path, carried: Path) -> None:
    # Beyond its last file an archive is zeros.
    content = carried.read_bytes().rstrip(b"\0")
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "bad.tar").write_bytes(content[: int(share * len(content))])
        with pytest.raises(BundleRefused):
            import_bundle(Store(tmp_path / "there"), tmp_path / "bad.tar")


def test_a_sparse_member_is_not_blown_up(tmp_path: Path) -> None:
    """A few bytes that stand for a terabyte of zeros."""
    (tmp_path / "manifest.json").touch()
    os.truncate(tmp_path / "manifest.json", 1 << 29)
    subprocess.run(["tar", "--sparse", "-cf", "bad.tar", "manifest.json"], cwd=tmp_path, check=True)
    assert (tmp_path / "bad.tar").stat().st_size < 1 << 20
    with pytest.raises(BundleRefused, match="is not a plain file"):
        import_bundle(Store(tmp_path / "there"), tmp_path / "bad.tar")


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        info, content = member(MANIFEST, b"{}")
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(BundleRefused, match="not a valid Manifest"):
        import_bundle(Store(tmp_path / "there"), tmp_path / "bad.tar")
