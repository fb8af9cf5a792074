"""Loading a bundle: every check before it may serve, in the order that reads nothing unchecked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.backends.registry import largest_engine, open_engine
from engines.batches import MOST, buckets
from engines.engine import Engine
from engines.errors import BundleRefused, InferenceError, Unavailable
from engines.live.load.golden_check import check_parity
from engines.live.states import State
from engines.machine.memory import admit, available_bytes, give_back
from engines.spec import EngineSpec
from engines.store.bundle import Manifest, certified_sha256, certified_spec, verify_bundle
from engines.store.external_data import check_external_data
from engines.store.file_names import CALIBRATOR, ENGINE, GOLDEN, PARAMS, PREPROCESS
from stage1.certificate.params import ScrcParams
from stage1.errors import Stage1Error
from stage1.policy import ScrcPolicy
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator

Report = Callable[[State], None]
Vouched = Literal["certificate", "golden images"]


def _silent(_state: State) -> None:
    pass


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle of which everything but the engine was read and checked."""

    directory: Path
    manifest: Manifest
    spec: EngineSpec
    params: ScrcParams
    calibrator: ProbabilityCalibrator
    preprocess: PreprocessSettings

    @property
    def weights(self) -> int:
        """Size of the largest engine in it, bytes."""
        return largest_engine(((name, entry.size) for name, entry in self.manifest.files.items()), self.spec)

    def pixels(self, most: int) -> int:
        """Pixels of a batch of so many images in the memory of this process; none where a GPU computes them."""
        if self.spec.device != "cpu":
            return 0
        height, width = self.preprocess.shape
        # In int8 images are computed one by one.
        return height * width * (1 if self.spec.precision == "int8" else most)


@dataclass(frozen=True)
class LiveBundle:
    """A bundle that passed every check and is loaded; everything one request needs comes from one of these.

    Attributes:
        vouched_by: what says that the engine decides as promised: the certificate that is bound to it, or, where it is
            not the very engine that was calibrated, the golden images.
    """

    manifest: Manifest
    engine: Engine
    params: ScrcParams
    policy: ScrcPolicy
    calibrator: ProbabilityCalibrator
    preprocess: PreprocessSettings
    vouched_by: Vouched = "certificate"

    @property
    def bundle_id(self) -> str:
        """Id of the bundle."""
        return self.manifest.bundle_id

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def check_bundle(directory: Path, report: Report = _silent) -> CheckedBundle:
    """Check every hash, and read everything but the engine.

    Args:
        directory: the bundle.
        report: told the state that begins.

    Raises:
        BundleRefused: a file is damaged, the graph reads a file that is in no certificate, or the certificate is for
            another engine or preprocessing.
    """
    report(State.VERIFYING)
    manifest = verify_bundle(directory)
    for name in manifest.files:
        if name.endswith(".onnx"):
            check_external_data(directory / name)
    try:
        params = ScrcParams.read(directory / PARAMS)
        preprocess = PreprocessSettings.read(directory / PREPROCESS)
        calibrator = ProbabilityCalibrator.read(directory / CALIBRATOR)
        spec = certified_spec(directory)
        digest = certified_sha256({name: entry.sha256 for name, entry in manifest.files.items()}, spec)
        params.check_binding(engine_sha256=digest, preprocess_sha256=preprocess.sha256)
    except Stage1Error as error:
        raise BundleRefused(f"{directory.name}: {error}") from error
    return CheckedBundle(directory, manifest, spec, params, calibrator, preprocess)


def load_checked(
    checked: CheckedBundle,
    opens: Callable[[], Engine],
    *,
    as_certified: bool,
    most: int = MOST,
    spot: bool = False,
    memory: Callable[[], int | None] = available_bytes,
    report: Report = _silent,
) -> LiveBundle:
    """Load the engine, warm it up and compare it with the golden outputs at every batch size.

    Args:
        checked: from `check_bundle`.
        opens: makes the engine. The golden images decide whether it may serve: outputs within the tolerance of the
            bundle of those of the engine that was calibrated.
        as_certified: whether it is that very engine.
        most: largest batch that will be asked of it.
        spot: compare a few golden images at each batch size instead of all, because a trial has compared them all.
        memory: memory that is left, bytes.
        report: told the state that begins.

    Raises:
        BundleRefused: it does not fit into memory, or any check failed; nothing stays loaded.
    """
    name = checked.directory.name
    report(State.LOADING)
    try:
        admit(checked.weights, memory(), checked.pixels(most))
    except Unavailable as error:
        raise Unavailable(f"{name}: {error}") from None
    engine = opens()
    try:
        check_shape(engine, checked.preprocess, name)
        # What reading it took is free again, and would stay beside what warming up takes.
        give_back()
        report(State.WARMING)
        engine.warm_up(most)
        report(State.GATING)
        tolerance = checked.manifest.parity_tolerance
        golden, precision = checked.directory / GOLDEN, checked.spec.precision
        check_parity(engine, golden, tolerance, precision=precision, sizes=buckets(most), spot=spot)
        report(State.READY)
    except (Stage1Error, InferenceError) as error:
        engine.close()
        raise BundleRefused(f"{name}: {error}") from error
    except BaseException:
        engine.close()
        raise
    vouched_by: Vouched = "certificate" if as_certified else "golden images"
    return LiveBundle(
        checked.manifest,
        engine,
        checked.params,
        ScrcPolicy(checked.params),
        checked.calibrator,
        checked.preprocess,
        vouched_by,
    )


def check_shape(engine: Engine, preprocess: PreprocessSettings, name: str) -> None:
    """Refuse an engine that takes images of another shape than the settings make.

    Args:
        engine: loaded.
        preprocess: settings beside it.
        name: how to name both in an error.

    Raises:
        BundleRefused: it does.
    """
    taken, made = engine.describe().shape, preprocess.shape
    if taken != made:
        raise BundleRefused(
            f"{name}: engine and preprocess settings differ in image size: the engine takes {taken[0]} x {taken[1]} px "
            f"(height x width), and {PREPROCESS} makes {made[0]} x {made[1]} px ({preprocess.geometry})"
        )


def load_bundle(
    directory: Path,
    *,
    spec: EngineSpec | None = None,
    compiled: Path | None = None,
    threads: int | None = None,
    most: int = MOST,
) -> LiveBundle:
    """Verify, load, warm up and compare with the golden outputs; see `check_bundle` and `load_checked`.

    Args:
        directory: the bundle.
        spec: another engine than the one that was certified, on the same graph.
        compiled: directory of what was compiled for this machine, instead of what the bundle holds.
        threads: intra-op threads of the engine.
        most: largest batch that will be asked of it.

    Raises:
        BundleRefused: any check failed; nothing stays loaded.
    """
    checked = check_bundle(directory)
    model, chosen = directory / ENGINE, spec or checked.spec
    return load_checked(
        checked,
        lambda: open_engine(chosen, model, compiled=compiled, threads=threads),
        as_certified=compiled is None and chosen == checked.spec,
        most=most,
    )
