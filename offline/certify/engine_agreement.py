"""Whether an engine computes its graph, and what of this machine decides its numbers."""

from __future__ import annotations

import numpy as np

from engines.backends.registry import backend
from engines.errors import ParityError
from engines.machine.gpu import find_gpu
from engines.spec import REFERENCE, EngineSpec
from offline.pipeline.content_key import installed
from stage1.outputs import Stage1Outputs

# A TensorRT that miscompiled a DINOv3 had a cosine of 0.02; dynamic int8 of a small network has 0.99.
LEAST_CORRELATION = 0.9
SAME = 1e-3


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
