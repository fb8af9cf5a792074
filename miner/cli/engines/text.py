"""Text of the `cascade engines` commands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from engines.backends.registry import check_available, known
from engines.errors import BundleRefused
from engines.live.load.load_bundle import load_bundle
from engines.machine.extras import EXTRAS
from engines.machine.gpu import Gpu, find_gpu
from engines.store.file_names import PARAMS, PREPROCESS
from engines.store.model_card import FULL_REWARD_DAYS, age_days
from engines.store.store import Listed, Store
from stage1.certificate.params import ScrcParams
from stage1.errors import ArtifactError
from stage1.preprocess import PreprocessSettings


def list_bundles(root: Path, now: datetime) -> str:
    """One line a bundle, with the age of its model in days."""
    store = Store(root)
    rows, rejected = store.bundles(), store.rejected()
    if not rows:
        return f"{root}: no bundles; `cascade retrain` makes one"
    return "\n".join(_line(root, row, rejected, now) for row in rows)


def _line(root: Path, row: Listed, rejected: Mapping[str, str], now: datetime) -> str:
    mark = "*" if row.current else "x" if row.manifest.bundle_id in rejected else "-" if row.previous else " "
    age = f"{age_in_words(age_days(root, row.manifest, now)):<8}"
    begins = f"{mark} {row.manifest.bundle_id}  {row.manifest.provenance.created_at}  {age}"
    try:
        params = ScrcParams.read(row.path / PARAMS)
    except ArtifactError as error:
        # Perhaps of a newer version; the others are of use all the same.
        return f"{begins}  cannot be read: {error}"
    coverage = "" if params.exit_coverage is None else f"exit coverage {params.exit_coverage.estimate or 0:.3f}"
    return f"{begins}  {params.status:<10}  {coverage}".rstrip()


def age_in_words(days: float | None) -> str:
    """`12 days`, or `?` where the age is not known."""
    return "?" if days is None else "1 day" if 1 <= days < 2 else f"{max(0, int(days))} days"


def show_bundle(root: Path, bundle_id: str, now: datetime) -> str:
    """A bundle in full.

    Raises:
        UnknownBundle: it is not in the store.
    """
    store = Store(root)
    manifest = store.verify(bundle_id)
    path = store.path(bundle_id)
    params = ScrcParams.read(path / PARAMS)
    words = params.statement if params.status == "CERTIFIED" else f"{params.statement} Why: {params.reason}"
    files = [f"  {entry.size:>12,}  {entry.sha256[:16]}  {name}" for name, entry in manifest.files.items()]
    provenance = manifest.provenance
    return "\n".join(
        [
            f"bundle     {manifest.bundle_id}",
            f"published  {provenance.created_at} by run {provenance.run}, version {provenance.code_version}",
            f"model age  {age_in_words(age_days(root, manifest, now))}, paid in full for {FULL_REWARD_DAYS:.0f}",
            f"directory  {path}",
            f"input      {_seen(PreprocessSettings.read(path / PREPROCESS))}",
            f"policy     {params.status}",
            f"stream     {params.stream}",
            words,
            "files",
            *files,
        ]
    )


def _seen(settings: PreprocessSettings) -> str:
    height, width = settings.shape
    tiles = "" if settings.tiles is None else f", {settings.tiles[0]} x {settings.tiles[1]} of {settings.size_px} px"
    return f"{height} x {width} px (height x width), {settings.geometry}{tiles}"


def verify(root: Path, bundle_id: str) -> str:
    """Load a bundle as a miner would.

    Raises:
        BundleRefused: a check failed.
        UnknownBundle: it is not in the store.
    """
    store = Store(root)
    store.verify(bundle_id)
    bundle = load_bundle(store.path(bundle_id))
    try:
        engine = bundle.engine.describe()
        return f"bundle {bundle.bundle_id} may serve: hashes, certificate and golden outputs hold on {engine}"
    finally:
        bundle.close()


def available() -> str:
    """One line for each engine: its runtime, or why it cannot be used here."""
    gpu = find_gpu()
    lines = [f"GPU: {gpu.name}, compute capability {gpu.compute_capability}" if isinstance(gpu, Gpu) else "GPU: none"]
    for spec in known():
        try:
            lines.append(f"{spec!s:<24} {check_available(spec, gpu)}")
        except BundleRefused as error:
            lines.append(f"{spec!s:<24} no: {str(error).removeprefix(f'{spec}: ')}")
    return "\n".join([*lines, "", "To be installed for a GPU:", *map(str, EXTRAS)])
