"""Whether an engine computes its graph, and what of this machine decides its numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.backends.registry import backend
from engines.batches import BUCKETS
from engines.engine import Engine
from engines.errors import ParityError
from engines.live.load.golden_check import compare
from engines.machine.gpu import find_gpu
from engines.spec import REFERENCE, EngineSpec, Precision
from offline.pipeline.content_key import installed
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

# A TensorRT that miscompiled a DINOv3 had a cosine of 0.02; dynamic int8 of a small network has 0.99.
LEAST_CORRELATION = 0.9
SAME = 1e-3
# Largest difference of an output from the reference, as a share of its range over some images. In int8 it may be any.
APART: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.1}


def machine_of(spec: EngineSpec) -> str:
    """What of this machine decides an engine's numbers: versions of its runtime and of the reference, and the GPU."""
    packages = dict.fromkeys((*backend(REFERENCE.backend).distributions, *backend(spec.backend).distributions))
    versions = {name: installed(name) for name in packages}
    gpu = "" if spec.device == "cpu" else find_gpu().model_dump_json(exclude={"free_bytes"})
    return f"{versions} {gpu}"


def correlation(ours: Stage1Outputs, theirs: Stage1Outputs) -> float:
    """Of the roadwork scores of the same images; 1 where neither varies and both are the same."""
    a, b = ours.roadwork_score.astype(np.float64), theirs.roadwork_score.astype(np.float64)
    if np.abs(a - b).max() <= SAME:
        return 1.0
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), np.finfo(np.float64).tiny))


def check_agreement(spec: EngineSpec, ours: Stage1Outputs, theirs: Stage1Outputs) -> None:
    """Refuse an engine that computes something else than its graph, before a calibration row is spent on it.

    Certifying it would be right, and of no use: it would hold for nonsense.

    Args:
        spec: the engine.
        ours: its outputs.
        theirs: those of the reference.

    Raises:
        ParityError: the correlation of their roadwork scores is below `LEAST_CORRELATION`.
    """
    found = correlation(ours, theirs)
    if found < LEAST_CORRELATION:
        raise ParityError(
            f"{spec} computes something else than its graph: over {len(ours)} images its roadwork scores have a "
            f"correlation of {found:.2f} with those of {REFERENCE}. Compile in another precision, or with "
            "another version of the runtime"
        )


def reference_gate(spec: EngineSpec, images: Pixels, theirs: Stage1Outputs) -> Callable[[Engine], None] | None:
    """What refuses an engine that computes another precision than its own, or another graph, at any batch size.

    A miscompiled kernel may be wrong at one batch size alone, and one that computes fp32 in fewer bits correlates with
    the reference at all of them.

    Args:
        spec: the engine.
        images: uint8 `(N, 3, H, W)`, of the size that is served.
        theirs: outputs of the reference for them.

    Returns:
        Takes an engine, and raises `ParityError`; None for a precision that promises nothing.
    """
    share = APART.get(spec.precision)
    if share is None or spec == REFERENCE:
        return None
    parts = [theirs.logits, theirs.select_score, *theirs.heads.values()]
    most = [max(share * float(np.ptp(values)), SAME * float(np.abs(values).max())) for values in parts]

    def gate(engine: Engine) -> None:
        compare(engine, images, theirs, most, sizes=BUCKETS)

    return gate
