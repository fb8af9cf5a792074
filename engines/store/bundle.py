"""Bundles: everything a Stage-1 is, in one immutable directory, and the checks before it may serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from engines.errors import BundleRefused
from engines.spec import REFERENCE, EngineSpec
from engines.store.file_names import ENGINE, ENGINE_PREFIXES, MANIFEST, REQUIRED, SPEC, WEIGHTS
from stage1.artifacts import Artifact, sha256_file, sha256_json
from stage1.errors import Stage1Error
from stage1.tolerance import TOLERANCE

ID_LENGTH = 16


class FileEntry(BaseModel):
    """Hash and size of one file of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Provenance(BaseModel):
    """Where a bundle comes from.

    Attributes:
        run: id of the pipeline run.
        created_at: when it was published, UTC, ISO 8601.
        code_version: version of the program.
        data_sha256: hash of the data that it was made of: every row, and the content of every image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    created_at: str
    code_version: str
    data_sha256: str


class Manifest(Artifact):
    """`manifest.json`, written last: a directory without one is not a bundle.

    Attributes:
        bundle_id: the first hex digits of the hash of `files`.
        files: every other file of the bundle.
        provenance: where it comes from; not part of the id.
        parity_tolerance: largest difference of an output from the golden one that is accepted, in logits.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    bundle_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    files: dict[str, FileEntry]
    provenance: Provenance
    parity_tolerance: float = Field(default=TOLERANCE, gt=0, le=5e-2)

    def holds(self, path: Path) -> bool:
        """Whether a file is the one of its name that was published.

        Raises:
            OSError: it cannot be read.
        """
        named = self.files.get(path.name)
        return named is not None and sha256_file(path) == named.sha256


def bundle_id_of(files: dict[str, FileEntry]) -> str:
    """The id that a bundle with these files has."""
    return sha256_json({name: entry.sha256 for name, entry in files.items()})[:ID_LENGTH]


def engine_digest(graph: str, weights: str | None) -> str:
    """Hash of an engine from those of its files: the graph's, and with weights beside it that of both."""
    return graph if weights is None else sha256_json([graph, weights])


def engine_sha256(path: Path) -> str:
    """Hash of an ONNX engine with everything that it reads; what a certificate is bound to.

    Args:
        path: the graph.
    """
    weights = path.with_name(path.name + WEIGHTS.removeprefix(ENGINE))
    return engine_digest(sha256_file(path), sha256_file(weights) if weights.exists() else None)


def certified_sha256(hashes: Mapping[str, str], spec: EngineSpec) -> str:
    """What a certificate is bound to: an engine with everything that decides its numbers.

    Args:
        hashes: of the files of a bundle, by name; only those of the engine matter.
        spec: what runs them.
    """
    if spec == REFERENCE:
        return engine_digest(hashes[ENGINE], hashes.get(WEIGHTS))
    files = {name: digest for name, digest in hashes.items() if name.startswith(ENGINE_PREFIXES)}
    return sha256_json([spec.model_dump(mode="json"), files])


def certified_spec(directory: Path) -> EngineSpec:
    """The engine that a bundle was certified on.

    Args:
        directory: of the bundle.

    Raises:
        stage1.errors.ArtifactError: the file that names it is damaged.
    """
    return EngineSpec.read(directory / SPEC) if (directory / SPEC).exists() else REFERENCE


def certified_sha256_of(directory: Path, spec: EngineSpec) -> str:
    """`certified_sha256` of the engine in a directory."""
    files = (path for path in directory.iterdir() if path.is_file() and path.name.startswith(ENGINE_PREFIXES))
    return certified_sha256({path.name: sha256_file(path) for path in files}, spec)


def bundle_files(directory: Path) -> list[Path]:
    """Every file of a directory but its manifest; subdirectories are not part of a bundle.

    Raises:
        BundleRefused: a required file is missing.
    """
    found = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name != MANIFEST]
    missing = [name for name in REQUIRED if name not in {path.name for path in found}]
    if missing:
        raise BundleRefused(f"{directory}: not a complete bundle, {', '.join(missing)} missing")
    return found


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Hash and size of the `bundle_files` of a directory, by name.

    Raises:
        BundleRefused: a required file is missing.
    """
    return {
        path.name: FileEntry(sha256=sha256_file(path), size=path.stat().st_size) for path in bundle_files(directory)
    }


def verify_bundle(directory: Path) -> Manifest:
    """Check every file of a bundle against its manifest, before anything else in it is read.

    Raises:
        BundleRefused: the manifest is missing or damaged, a file is missing, changed or extra, something is not a
        file, or the id is not the hash.
    """
    try:
        manifest = Manifest.read(directory / MANIFEST)
    except Stage1Error as error:
        raise BundleRefused(str(error)) from error
    for path in directory.iterdir():
        # An engine may read what lies beside it, and nobody has hashed what a directory or a link leads to.
        if path.is_symlink() or not path.is_file():
            raise BundleRefused(f"{directory}: {path.name} is not a file")
    found = describe_files(directory)
    for name in sorted(found.keys() | manifest.files.keys()):
        expected, actual = manifest.files.get(name), found.get(name)
        if expected != actual:
            state = "missing" if actual is None else "not in the manifest" if expected is None else "changed"
            raise BundleRefused(f"{directory}: {name} is {state}")
    expected_id = bundle_id_of(found)
    if manifest.bundle_id != expected_id:
        raise BundleRefused(f"{directory}: the manifest says {manifest.bundle_id}, the files are {expected_id}")
    return manifest
