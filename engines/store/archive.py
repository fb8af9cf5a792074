"""A bundle as one file, to carry it to another machine: a tar archive whose first member is the manifest."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from engines.errors import BundleRefused, StoreError
from engines.store.bundle import Manifest, verify_bundle
from engines.store.file_names import MANIFEST
from engines.store.holds import held
from engines.store.store import Store
from stage1.errors import ArtifactError

MOST_OF_A_MANIFEST = 1 << 20
MOST_OF_A_HEADER = 1 << 16
CHUNK = 1 << 20


def export_bundle(store: Store, bundle_id: str, target: Path) -> str:
    """Write a bundle into one file, after checking every hash of it; the file appears complete.

    Args:
        store: holds the bundle.
        bundle_id: id or an unambiguous beginning of one.
        target: the file; must not exist yet.

    Returns:
        The id of the bundle.

    Raises:
        UnknownBundle: it is not in the store.
        BundleRefused: it is damaged.
        StoreError: the file exists.
    """
    manifest, path = store.verify(bundle_id), store.path(bundle_id)
    if target.exists():
        raise StoreError(f"{target}: exists already")
    partial = target.with_name(f".{target.name}.partial")
    try:
        # Not compressed: weights and images hardly shrink.
        with held(store.root, path.name), tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in (MANIFEST, *manifest.files):
                archive.add(path / name, name, filter=_anonymous)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return manifest.bundle_id


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def import_bundle(store: Store, source: Path) -> str:
    """Put a bundle that `export_bundle` wrote into a store; it does not become current.

    Nothing is written that the manifest does not name, nor more of it than it says, and every hash is checked before
    the bundle appears. A manifest proves what is in a file, and not who made it: import only what you trust.

    Args:
        store: where it goes.
        source: the file.

    Returns:
        The id of the bundle.

    Raises:
        BundleRefused: it is no such file, or damaged.
        OSError: it cannot be read, or the disk is full; nothing is left behind.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=store.root) as name:
        directory = Path(name)
        try:
            with tarfile.open(source, "r:", tarinfo=_Member) as archive:
                _extract(archive, directory)
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise BundleRefused(f"{source}: not a bundle file: {error}") from error
        except BundleRefused as error:
            raise BundleRefused(f"{source}: {error}") from error
        manifest = verify_bundle(directory)
        # Nobody else knows of these files.
        return store.publish(
            directory, manifest.provenance, parity_tolerance=manifest.parity_tolerance, unchanging=True
        )


class _Member(tarfile.TarInfo):
    """A member whose extended headers, which are read whole, are of a decent size."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in tarfile.REGULAR_TYPES and self.size > MOST_OF_A_HEADER:
            raise tarfile.ReadError("an extended header is too large")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def _extract(archive: tarfile.TarFile, directory: Path) -> None:
    manifest: Manifest | None = None
    for member in archive:
        if not member.isreg() or member.issparse() or PurePosixPath(member.name).name != member.name:
            raise BundleRefused(f"{member.name!r} is not a plain file")
        if manifest is None:
            if member.name != MANIFEST or member.size > MOST_OF_A_MANIFEST:
                raise BundleRefused("it does not begin with a manifest")
            _copy(archive, member, directory)
            try:
                manifest = Manifest.read(directory / MANIFEST)
            except ArtifactError as error:
                raise BundleRefused(str(error)) from error
            continue
        entry = manifest.files.get(member.name)
        if entry is None or entry.size != member.size or (directory / member.name).exists():
            raise BundleRefused(f"{member.name} is not the file that the manifest describes")
        _copy(archive, member, directory)
    if manifest is None:
        raise BundleRefused("it is empty")


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    content = archive.extractfile(member) or io.BytesIO()
    with content, (directory / member.name).open("wb") as target:
        while chunk := content.read(CHUNK):
            target.write(chunk)
