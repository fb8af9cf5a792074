"""The ladder: what a build falls back to where its engine does not compute what the graph says.

On some GPUs the fused attention of TensorRT is silently wrong in bf16 and right without the fusion, or in fp32
(NVIDIA/TensorRT issue 4837): so an engine is compared with its golden images on the GPU that is to run it, at every
batch size, and the first rung that passes is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from engines.backends.backend import CompileOptions
from engines.backends.tensorrt.build import Plan, build_plan
from engines.backends.tensorrt.library import Flavour
from engines.backends.tensorrt.plan import Rung
from engines.engine import Engine
from engines.errors import BuildFailed, BundleRefused, EngineError, InferenceError, Unavailable
from engines.spec import EngineSpec, Precision, twin
from stage1.errors import OutputsError
from stage1.preprocess import Shape

RUNGS: dict[Precision, tuple[Rung, ...]] = {"bf16": ("bf16", "bf16 unfused", "fp32"), "fp32": ("fp32",)}

# An engine that takes other weights may be so much slower than one that does not; TensorRT has made such half as fast.
MOST_SLOWER = 1.05
TIMED, CALLS = 8, 20

log = structlog.get_logger(__name__)


def graph_of(rung: Rung) -> Precision:
    """Precision of the graph that a rung is built from."""
    return "fp32" if rung == "fp32" else "bf16"


def build_on_ladder(
    spec: EngineSpec,
    model: Path,
    into: Path,
    options: CompileOptions,
    flavour: Flavour,
    opens: Callable[[], Engine],
    *,
    seconds: Callable[[], float] = time.perf_counter,
) -> None:
    """Write the plan of the first rung that computes what the gate asks for.

    Where the engine cannot run, because it is built for GPUs elsewhere, the first rung that builds is taken: that
    machine compares it, and compiles anew if it must. One that can take other weights is kept only where it is at most
    5 % slower than one that cannot.

    Args:
        spec: the engine.
        model: the fp32 graph; its twin lies beside it.
        into: directory of the plan.
        options: how; `gate` compares.
        flavour: the library.
        opens: opens what was written.
        seconds: a clock that only runs forward.

    Raises:
        BundleRefused: a graph is none.
        BuildFailed: no rung can be built here, or none computes what it must; names each with its reason.
    """
    refused: list[str] = []
    for rung in RUNGS[spec.precision]:
        build = partial(
            build_plan,
            twin(model, graph_of(rung)),
            flavour=flavour,
            rung=rung,
            refused=tuple(refused),
            timing_cache=options.timing_cache,
        )
        try:
            plan = build(refit=options.refittable)
            plan.write(into)
            _compare(options, opens)
            if options.refittable:
                plan = _as_fast(plan, build(refit=False), into, opens, seconds)
                _compare(options, opens)
        except (BuildFailed, InferenceError, OutputsError, _Refused) as error:
            refused.append(f"{rung}: {error}")
            log.warning("rung_refused", engine=str(spec), rung=rung, reason=str(error))
            continue
        log.info("rung_built", engine=str(spec), rung=rung, products=plan.description.products)
        return
    raise BuildFailed("; ".join(refused))


class _Refused(EngineError):
    """What was built does not compute what it must."""


def _as_fast(
    refittable: Plan, plain: Plan, into: Path, opens: Callable[[], Engine], seconds: Callable[[], float]
) -> Plan:
    """The plan that is left in the directory: the one that takes other weights, unless that costs too much."""
    taken = []
    for plan in (refittable, plain):
        plan.write(into)
        try:
            engine = opens()
        except Unavailable:
            refittable.write(into)
            return refittable
        with closing(engine):
            taken.append(_median(engine, refittable.description.shape, seconds))
    slower = taken[0] / taken[1]
    if slower > MOST_SLOWER:
        log.warning("refit_too_slow", ratio=round(slower, 3), most=MOST_SLOWER)
        return plain
    log.info("refit_fast_enough", ratio=round(slower, 3))
    refittable.write(into)
    return refittable


def _median(engine: Engine, shape: Shape, seconds: Callable[[], float]) -> float:
    """Seconds of a call, of several after the engine is warm."""
    engine.warm_up(TIMED)
    batch, taken = np.zeros((TIMED, 3, *shape), np.uint8), []
    for _ in range(CALLS):
        began = seconds()
        engine.infer(batch)
        taken.append(seconds() - began)
    return statistics.median(taken)


def _compare(options: CompileOptions, opens: Callable[[], Engine]) -> None:
    if options.gate is None:
        return
    try:
        engine = opens()
    except Unavailable as error:
        log.info("rung_not_compared", reason=str(error))
        return
    except BundleRefused as error:
        raise _Refused(str(error)) from error
    with closing(engine):
        try:
            options.gate(engine)
        except BundleRefused as error:
            raise _Refused(str(error)) from error
