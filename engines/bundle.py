"""Bundles: everything a Stage-1 is, in one immutable directory, and the checks before it may serve."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from pydantic import BaseModel, ConfigDict, Field

from engines.backends import open_engine
from engines.engine import HEAD_PREFIX, REFERENCE, Engine
from engines.errors import BundleRefused, InferenceError, ParityError
from stage1.artifacts import Artifact, sha256_file, sha256_json
from stage1.certificate import ScrcParams
from stage1.errors import Stage1Error
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.preprocess import Pixels, PreprocessSettings
from stage1.probability import ProbabilityCalibrator

MANIFEST = "manifest.json"
ENGINE = "model.onnx"
# Beside the graph where the weights are too large for one file; ONNX Runtime finds it by this name.
WEIGHTS = "model.onnx.data"
PARAMS = "scrc_params.json"
PREPROCESS = "preprocess.json"
CALIBRATOR = "calibrator.json"
GOLDEN = "golden.npz"
REQUIRED = (ENGINE, PARAMS, PREPROCESS, CALIBRATOR, GOLDEN, "config.json", "splits.json", "metrics.csv", "report.html")

ID_LENGTH = 16
WARM_UP = 2


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
        data_sha256: hash of the labels file.
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
    parity_tolerance: float = Field(default=1e-3, gt=0)


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


def describe_files(directory: Path) -> dict[str, FileEntry]:
    """Hash and size of every file of a directory but its manifest; subdirectories are not part of a bundle.

    Raises:
        BundleRefused: a required file is missing.
    """
    found = {path.name: path for path in sorted(directory.iterdir()) if path.is_file() and path.name != MANIFEST}
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise BundleRefused(f"{directory}: not a complete bundle, {', '.join(missing)} missing")
    return {name: FileEntry(sha256=sha256_file(path), size=path.stat().st_size) for name, path in found.items()}


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


@dataclass(frozen=True)
class LiveBundle:
    """A bundle that passed every check and is loaded; everything one request needs comes from one of these."""

    manifest: Manifest
    engine: Engine
    params: ScrcParams
    policy: ScrcPolicy
    calibrator: ProbabilityCalibrator
    preprocess: PreprocessSettings

    @property
    def bundle_id(self) -> str:
        """Id of the bundle."""
        return self.manifest.bundle_id

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def load_bundle(directory: Path, *, threads: int | None = None) -> LiveBundle:
    """Verify, load, warm up and compare with the golden outputs.

    Args:
        directory: the bundle.
        threads: intra-op threads of the engine.

    Raises:
        BundleRefused: any check failed; nothing stays loaded.
    """
    manifest = verify_bundle(directory)
    try:
        params = ScrcParams.read(directory / PARAMS)
        preprocess = PreprocessSettings.read(directory / PREPROCESS)
        calibrator = ProbabilityCalibrator.read(directory / CALIBRATOR)
        weights = manifest.files.get(WEIGHTS)
        digest = engine_digest(manifest.files[ENGINE].sha256, None if weights is None else weights.sha256)
        params.check_binding(engine_sha256=digest, preprocess_sha256=preprocess.sha256)
    except Stage1Error as error:
        raise BundleRefused(f"{directory.name}: {error}") from error
    engine = open_engine(REFERENCE, directory / ENGINE, threads=threads)
    try:
        if engine.describe().size_px != preprocess.size_px:
            raise BundleRefused(f"{directory.name}: engine and preprocess settings differ in image size")
        engine.warm_up(WARM_UP)
        policy = ScrcPolicy(params)
        check_parity(engine, policy, directory / GOLDEN, manifest.parity_tolerance)
    except (Stage1Error, InferenceError) as error:
        engine.close()
        raise BundleRefused(f"{directory.name}: {error}") from error
    except BaseException:
        engine.close()
        raise
    return LiveBundle(manifest, engine, params, policy, calibrator, preprocess)


def write_golden(path: Path, images: np.ndarray, outputs: Stage1Outputs) -> None:
    """Store the images and outputs that every later load must reproduce.

    Args:
        path: an `.npz` file.
        images: uint8 `(N, 3, H, W)`.
        outputs: what the calibrated engine returned for them.
    """
    with path.open("wb") as handle:
        arrays: dict[str, Any] = {"images": images, "logits": outputs.logits, "select_score": outputs.select_score}
        arrays |= {HEAD_PREFIX + name: logits for name, logits in outputs.heads.items()}
        np.savez_compressed(handle, **arrays)


def _read_golden(path: Path) -> tuple[Pixels, Stage1Outputs]:
    try:
        with path.open("rb") as handle, NpzFile(handle, allow_pickle=False) as stored:
            heads = {name.removeprefix(HEAD_PREFIX): stored[name] for name in stored if name.startswith(HEAD_PREFIX)}
            images, expected = stored["images"], Stage1Outputs(stored["logits"], stored["select_score"], heads)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error) as error:
        raise BundleRefused(f"{path.name}: not a golden set: {error}") from error
    if not 0 < len(images) == len(expected):
        raise BundleRefused(f"{path.name}: {len(images)} images and {len(expected)} outputs are not a golden set")
    return images, expected


def _drift(actual: Stage1Outputs, expected: Stage1Outputs) -> list[float]:
    """Largest difference of each output."""
    if actual.heads.keys() != expected.heads.keys():
        raise ParityError(
            f"the engine has heads {sorted(actual.heads)}, the golden outputs have {sorted(expected.heads)}"
        )
    pairs = [(actual.logits, expected.logits), (actual.select_score, expected.select_score)]
    pairs += [(actual.heads[name], expected.heads[name]) for name in expected.heads]
    return [float(np.abs(a - b).max()) for a, b in pairs]


def check_parity(engine: Engine, policy: ScrcPolicy, golden: Path, tolerance: float) -> float:
    """Compare an engine with the golden outputs, one by one and as one batch.

    Returns:
        The largest difference of any output.

    Raises:
        ParityError: a difference above `tolerance`, or another decision for any golden image.
    """
    images, expected = _read_golden(golden)
    singly = Stage1Outputs.concatenate([engine.infer(image[None]) for image in images])
    worst = 0.0
    for actual in (singly, engine.infer(images)):
        worst = max(worst, *_drift(actual, expected))
        if worst > tolerance:
            raise ParityError(f"outputs differ from the golden ones by {worst:.2g}, more than {tolerance:.2g}")
        flips = np.flatnonzero(policy.decide(actual).exit_label != policy.decide(expected).exit_label)
        if len(flips):
            raise ParityError(f"{len(flips)} golden images are decided otherwise, the first is number {flips[0]}")
    return worst
