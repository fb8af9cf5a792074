"""Puts another night's weights into an engine that is not serving, in place of a build.

Only into an idle twin of the engine that serves: a refit that fails leaves an engine with weights of both nights. A
twin is compared with the golden outputs before it serves, like every engine. Never executed by us: a GPU is needed even
to build what can be refitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.tensorrt.plan import PlanDescription
from engines.errors import BundleRefused, InferenceError

if TYPE_CHECKING:
    from engines.backends.tensorrt.engine import TensorRtEngine


def refit(twin: TensorRtEngine, onnx: Path) -> None:
    """Replace all weights.

    Args:
        twin: nobody uses it; after an error it may have weights of both nights.
        onnx: the graph of the twin's plan, with other weights; see `check_refit`.

    Raises:
        BundleRefused: the library refused.
        InferenceError: the twin is in use or closed, or the GPU failed.
    """
    flavour = twin.flavour
    trt = flavour.trt
    with flavour.errors.recorded() as lines, twin.alone() as (engine, cuda):
        refitter = trt.Refitter(engine, flavour.logger)
        parser_refitter = trt.OnnxParserRefitter(refitter, flavour.logger)
        stream = int(cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking))
        try:
            done = (
                parser_refitter.refit_from_file(str(onnx))
                and not refitter.get_missing_weights()
                and refitter.refit_cuda_engine_async(stream)
            )
            cuda.call("cudaStreamSynchronize", stream)
        except InferenceError:
            done = False
        finally:
            cuda.release("cudaStreamDestroy", stream)
        # They refer to the engine, which may go next.
        del parser_refitter, refitter, engine
    if not done:
        raise BundleRefused(f"{flavour} does not take the weights of {onnx.name}: {'; '.join(lines) or 'no reason'}")


def check_refit(plan: PlanDescription, other: PlanDescription) -> None:
    """Whether a plan may be given the weights of the graph that another plan was built from.

    Raises:
        BundleRefused: it was not built for it, or is of another graph.
    """
    if not plan.refittable:
        raise BundleRefused("the plan was not built to be refitted: build it with refit, or build anew")
    if (other.graph_sha256, other.precision) != (plan.graph_sha256, plan.precision):
        raise BundleRefused("the weights are of another graph than the plan's: build anew")
