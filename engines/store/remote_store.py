"""Bundles in another place: a directory, a bucket or a repository, whatever fsspec has a file system for.

A bundle lies there under its id, file by file, and its manifest comes last: where that is missing, there is no bundle
yet. What is sent is read back, and what is fetched is checked before it appears in the store.
"""

from __future__ import annotations

import hashlib
import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from engines.errors import BundleRefused, StoreError, UnknownBundle
from engines.store.archive import CHUNK, MOST_OF_A_MANIFEST
from engines.store.bundle import ID_LENGTH, FileEntry, Manifest, verify_bundle
from engines.store.file_names import MANIFEST
from engines.store.holds import held
from engines.store.store import Store
from stage1.errors import ArtifactError

# What a file system is found by, and the package that it is in.
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "hf": "huggingface_hub", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


def push_bundle(store: Store, bundle_id: str, url: str) -> str:
    """Put a bundle into another place; files of it that are there already, and are right, are not sent again.

    Args:
        store: holds the bundle.
        bundle_id: id or an unambiguous beginning of one.
        url: of the directory, for example `s3://bucket/engines` or `file:///mnt/engines`.

    Returns:
        The id of the bundle.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged here.
        StoreError: the place needs a package that is not there, or what arrived is not what was sent.
        OSError: the place cannot be written.
    """
    name = store.path(bundle_id).name
    with held(store.root, name):
        manifest, home = store.verify(name), store.path(name)
        with _opened(url) as (files, base):
            place = f"{base}/{name}"
            if files.exists(f"{place}/{MANIFEST}"):
                return name
            files.makedirs(place, exist_ok=True)
            for file, entry in manifest.files.items():
                target = f"{place}/{file}"
                if not _is_there(files, target, entry):
                    files.put_file(str(home / file), target)
                    if not _is_there(files, target, entry):
                        raise StoreError(f"{url}: {file} of {name} is not there as it was sent; send it again")
            _write_whole(files, f"{place}/{MANIFEST}", (home / MANIFEST).read_bytes())
    return name


def pull_bundle(store: Store, url: str, bundle_id: str = "") -> str:
    """Fetch a bundle from another place into the store; it does not become current.

    Nothing is fetched that the manifest does not name, nor more of it than it says, and every hash is checked before
    the bundle appears. A manifest proves what is in a file, and not who made it: fetch only what you trust.

    Args:
        store: where it goes.
        url: where `push_bundle` put it.
        bundle_id: id or an unambiguous beginning of one; empty for the one that was published last.

    Returns:
        The id of the bundle.

    Raises:
        UnknownBundle: there is none of that name.
        BundleRefused: it is damaged there.
        StoreError: the place needs a package that is not there.
        OSError: it cannot be read, or the disk is full; nothing is left behind.
    """
    with _opened(url) as (files, base):
        manifest = _chosen(_manifests(files, base, bundle_id), url, bundle_id)
        store.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=store.root) as scratch:
            directory = Path(scratch)
            for file, entry in manifest.files.items():
                if PurePosixPath(file).name != file or file == MANIFEST:
                    raise BundleRefused(f"{url}: {file!r} is not the name of a file of a bundle")
                with files.open(f"{base}/{manifest.bundle_id}/{file}", "rb") as source:
                    _fetch(source, directory / file, entry, f"{url}: {file}")
            manifest.write(directory / MANIFEST)
            verify_bundle(directory)
            return store.publish(
                directory, manifest.provenance, parity_tolerance=manifest.parity_tolerance, unchanging=True
            )


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, str]]:
    """A file system, and the path of a directory in it."""
    parts = urlsplit(url)
    if parts.password is not None:
        raise StoreError("an address holds no password: give it to the file system by its environment or its own files")
    try:
        files, base = importlib.import_module("fsspec").core.url_to_fs(url)
    except ImportError as error:
        package = "fsspec" if error.name == "fsspec" else PACKAGES.get(parts.scheme, "")
        wanted = f"`pip install {package}`" if package else "the package of its file system"
        raise StoreError(f"{url}: {wanted} is needed to read it ({error})") from error
    except ValueError as error:
        raise StoreError(f"{url}: no file system is known for it: {error}") from error
    yield files, str(base).rstrip("/")


def _manifests(files: Any, base: str, beginning: str) -> Iterator[Manifest]:  # noqa: ANN401  fsspec has no types
    """The manifests of bundles that are there whole, of those whose id begins so."""
    # A listing may be one of an earlier look.
    files.invalidate_cache()
    try:
        names = sorted(PurePosixPath(str(path)).name for path in files.ls(base, detail=False))
    except FileNotFoundError:
        return
    for name in names:
        path = f"{base}/{name}/{MANIFEST}"
        if len(name) != ID_LENGTH or not name.startswith(beginning) or not files.exists(path):
            continue
        if files.size(path) > MOST_OF_A_MANIFEST:
            raise BundleRefused(f"{path}: too large for a manifest")
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / MANIFEST
            copy.write_bytes(files.cat_file(path))
            try:
                manifest = Manifest.read(copy)
            except ArtifactError as error:
                raise BundleRefused(f"{path}: {error}") from error
        if manifest.bundle_id != name:
            raise BundleRefused(f"{path}: it is of bundle {manifest.bundle_id}")
        yield manifest


def _chosen(there: Iterator[Manifest], url: str, bundle_id: str) -> Manifest:
    found = sorted(there, key=lambda one: one.provenance.created_at)
    if not found:
        what = f"that is called {bundle_id!r}" if bundle_id else "at all"
        raise UnknownBundle(f"{url}: there is no whole bundle {what}")
    if bundle_id and len(found) > 1:
        raise UnknownBundle(f"{url}: {len(found)} bundles begin with {bundle_id!r}")
    return found[-1]


def _fetch(source: BinaryIO, target: Path, entry: FileEntry, what: str) -> None:
    digest, left = hashlib.sha256(), entry.size
    with target.open("wb") as handle:
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            digest.update(chunk)
            handle.write(chunk)
    if left or digest.hexdigest() != entry.sha256:
        raise BundleRefused(f"{what} is not the file that the manifest describes")


def _is_there(files: Any, path: str, entry: FileEntry) -> bool:  # noqa: ANN401  fsspec has no types
    """Whether a file is there with every byte of it, read back."""
    files.invalidate_cache()
    if not files.exists(path) or files.size(path) != entry.size:
        return False
    digest = hashlib.sha256()
    with files.open(path, "rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == entry.sha256


def _write_whole(files: Any, path: str, content: bytes) -> None:  # noqa: ANN401  fsspec has no types
    """Write a small file so that nobody reads half of it."""
    if "file" not in files.protocol:
        # A store of objects has the whole one or none.
        files.pipe_file(path, content)
        return
    partial = f"{path}.partial"
    files.pipe_file(partial, content)
    files.mv(partial, path)
