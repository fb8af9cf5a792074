"""Stage-1 graphs in int8."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from engines.errors import BundleRefused
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    from onnxruntime import quantization
else:
    quantization = without_telemetry("onnxruntime.quantization")

# The convolution that cuts an image into patches is a hundredth of the work, and slower in int8.
QUANTISED = ("MatMul", "Gemm")
# Tells the quantiser that shapes are inferred and constants folded, as the exporter has done.
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def quantise_dynamic(source: Path, target: Path) -> None:
    """Write a graph whose products with weights are of int8, for `OnnxEngine`.

    Weights get a scale for each column, beforehand; activations get one for each product, of what is in the batch at
    that moment. So no images are needed, and what an image is answered would depend on the others in its batch: the
    engine computes them one by one. Heads, normalisations, attention and everything between stay fp32.

    Weights have seven bits. A CPU without VNNI adds up two products in 16 bits, which those of eight bits overflow: it
    would answer otherwise than the CPU on which the bundle was certified.

    Args:
        source: an fp32 graph; its weights may lie beside it.
        target: the ONNX file, with the weights in it; appears complete.

    Raises:
        BundleRefused: the source is not an ONNX model, or has no product with weights.
    """
    try:
        model = onnx.load(source)
    except Exception as error:  # protobuf's own, which has no types, or that of weights that are not there
        raise BundleRefused(f"{source.name}: not an ONNX model: {error}") from error
    onnx.helper.set_model_props(model, PREPARED)
    with tempfile.TemporaryDirectory(prefix=".quantising-", dir=target.parent) as name:
        made = Path(name) / target.name
        quantization.quantize_dynamic(
            model,
            made,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )
        if not any(node.op_type == "MatMulInteger" for node in onnx.load(made).graph.node):
            raise BundleRefused(f"{source.name}: there is no product with weights in it to quantise")
        made.replace(target)
