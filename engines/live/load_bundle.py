"""Loading a bundle: every check before it may serve, in the order that reads nothing unchecked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from engines.backends.opened import open_engine
from engines.engine import REFERENCE, Engine, EngineSpec, buckets, in_batches
from engines.errors import BundleRefused, InferenceError, ParityError, Unavailable
from engines.live.states import State
from engines.machine.memory import admit, available_bytes, give_back
from engines.store.bundle import (
    CALIBRATOR,
    ENGINE,
    GOLDEN,
    PARAMS,
    PREPROCESS,
    SPEC,
    Manifest,
    certified_sha256,
    read_golden,
    verify_bundle,
)
from stage1.certificate.params import ScrcParams
from stage1.errors import Stage1Error
from stage1.outputs import Stage1Outputs
from stage1.policy import Policy, ScrcPolicy
from stage1.preprocess import PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator

# As many as the pipeline asks at a time.
MOST = 16

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
        graph, *others = (
            sum(entry.size for name, entry in self.manifest.files.items() if name.startswith(prefix))
            for prefix in (ENGINE, "model.int8.", "model.bf16.", "engine.")
        )
        return max(graph, *others)


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
        BundleRefused: a file is damaged, or the certificate is for another engine or preprocessing.
    """
    report(State.VERIFYING)
    manifest = verify_bundle(directory)
    try:
        params = ScrcParams.read(directory / PARAMS)
        preprocess = PreprocessSettings.read(directory / PREPROCESS)
        calibrator = ProbabilityCalibrator.read(directory / CALIBRATOR)
        spec = EngineSpec.read(directory / SPEC) if SPEC in manifest.files else REFERENCE
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
        opens: makes the engine. The golden images decide whether it may serve: the same decisions as those of the
            engine that was calibrated, and outputs within the tolerance of the bundle.
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
        admit(checked.weights, memory())
    except Unavailable as error:
        raise Unavailable(f"{name}: {error}") from None
    engine = opens()
    try:
        if engine.describe().size_px != checked.preprocess.size_px:
            raise BundleRefused(f"{name}: engine and preprocess settings differ in image size")
        # What reading it took is free again, and would stay beside what warming up takes.
        give_back()
        report(State.WARMING)
        engine.warm_up(most)
        report(State.GATING)
        policy = ScrcPolicy(checked.params)
        tolerance = checked.manifest.parity_tolerance
        check_parity(engine, policy, checked.directory / GOLDEN, tolerance, sizes=buckets(most), spot=spot)
    except (Stage1Error, InferenceError) as error:
        engine.close()
        raise BundleRefused(f"{name}: {error}") from error
    except BaseException:
        engine.close()
        raise
    report(State.READY)
    vouched_by: Vouched = "certificate" if as_certified else "golden images"
    return LiveBundle(
        checked.manifest, engine, checked.params, policy, checked.calibrator, checked.preprocess, vouched_by
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


def _drift(actual: Stage1Outputs, expected: Stage1Outputs) -> list[float]:
    """Largest difference of each output."""
    if actual.heads.keys() != expected.heads.keys():
        raise ParityError(
            f"the engine has heads {sorted(actual.heads)}, the golden outputs have {sorted(expected.heads)}"
        )
    pairs = [(actual.logits, expected.logits), (actual.select_score, expected.select_score)]
    pairs += [(actual.heads[name], expected.heads[name]) for name in expected.heads]
    if any(a.shape != b.shape for a, b in pairs):
        raise ParityError("the engine has other numbers of classes than the golden outputs")
    return [float(np.abs(a - b).max()) for a, b in pairs]


def check_parity(
    engine: Engine,
    policy: Policy,
    golden: Path,
    tolerance: float,
    *,
    sizes: Sequence[int] = (1, MOST),
    spot: bool = False,
) -> float:
    """Compare an engine with the golden outputs, at every batch size: a miscompiled kernel may be wrong at one alone.

    Args:
        engine: to be checked.
        policy: whose decisions must be the same.
        golden: from `write_golden`.
        tolerance: largest difference of any output that is accepted.
        sizes: batch sizes in ascending order. All golden images are run at the first and the last of them, as many as
            fill one batch at the others.
        spot: as many as fill one batch at every size.

    Returns:
        The largest difference of any output.

    Raises:
        ParityError: a difference above `tolerance`, or another decision for any golden image.
    """
    images, expected = read_golden(golden)
    worst = 0.0
    for size in sizes:
        count = size if spot or size not in {sizes[0], sizes[-1]} else len(images)
        actual = in_batches(engine, images[:count], size)
        stored = expected.rows(slice(0, len(actual)))
        worst = max(worst, *_drift(actual, stored))
        if worst > tolerance:
            raise ParityError(
                f"at batch size {size}, outputs differ from the golden ones by {worst:.2g}, more than {tolerance:.2g}"
            )
        flips = np.flatnonzero(policy.decide(actual).exit_label != policy.decide(stored).exit_label)
        if len(flips):
            raise ParityError(
                f"at batch size {size}, {len(flips)} golden images are decided otherwise, the first is number "
                f"{flips[0]}"
            )
    return worst
