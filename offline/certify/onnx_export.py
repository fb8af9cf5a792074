"""Export of the merged torch model to ONNX, proved equal to it."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from engines.backends.onnxruntime import OnnxEngine
from engines.engine import HEAD_PREFIX, INPUT, OUTPUTS
from offline.errors import TrainingError
from offline.learning.predict import predict
from stage1.model.net import Stage1Net
from stage1.preprocess import Pixels, Shape

# The newest that the parser of TensorRT 10 takes; older ones take a GELU apart.
OPSET = 20
MAX_BATCH = 64
CHANNELS = 3
PARITY_BATCHES = (1, 2, 5, 17)
PARITY_TOLERANCE = 1e-4


def export_onnx(net: Stage1Net, path: Path, shape: Shape) -> None:
    """Write the graph: uint8 `(N, 3, *shape)` to logits, selection score and named heads, dynamic in N.

    Args:
        net: merged, fp32.
        path: the ONNX file; weights too large for it are written beside it.
        shape: height and width of the input, px.
    """
    _export(net.eval(), list(net.named_heads), path, shape)
    onnx.checker.check_model(str(path), full_check=True)


def export_bf16(net: Stage1Net, path: Path, shape: Shape) -> None:
    """Write the twin for TensorRT, whose engines compute in the types of the graph: the backbone in bf16.

    Pixels are normalised and cut into patches, and features pooled and judged, in fp32; inputs and outputs are those of
    `export_onnx`. ONNX Runtime does not run it on a CPU.

    Args:
        net: merged, fp32; stays as it is.
        path: the ONNX file; weights too large for it are written beside it.
        shape: height and width of the input, px.
    """
    _export(bf16_twin(net).eval(), list(net.named_heads), path, shape)
    # The full check also infers types, and a backbone of convolutions has them in bf16: the standard since opset 22.
    onnx.checker.check_model(str(path))


def bf16_twin(net: Stage1Net) -> Stage1Net:
    """The same network with a backbone that computes in bf16; the rest is shared with `net`, which stays as it is."""
    twin = copy.copy(net)
    twin._modules = {**net._modules, "backbone": _InBf16(net.backbone)}  # noqa: SLF001
    return twin


class _InBf16(nn.Module):
    """A backbone that computes in bf16 and is asked and answers in fp32.

    What reads the pixels multiplies in fp32: it is a hundredth of the work, and the standard has no convolution in bf16
    at this opset.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.inner = copy.deepcopy(backbone).bfloat16()
        for module in self.inner.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels == CHANNELS:
                # The backbone makes pixels and positions of the type of its weights, so that these stay as they are.
                module.__class__ = _InFp32

    def get_base_model(self) -> nn.Module:
        """The backbone itself, as a wrapper of peft is asked for it."""
        return self.inner

    def forward(self, pixels: Tensor, **options: bool) -> BaseModelOutput:
        hidden: Tensor = self.inner(pixels.bfloat16(), **options).last_hidden_state
        return BaseModelOutput(last_hidden_state=hidden.float())


class _InFp32(nn.Conv2d):
    """A convolution whose weights are of bf16 and whose products are of fp32."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  torch's own
        made: Tensor = super()._conv_forward(input.float(), weight.float(), None if bias is None else bias.float())
        return made.to(input.dtype)


def _export(net: nn.Module, heads: list[str], path: Path, shape: Shape) -> None:
    example = torch.zeros((2, 3, *shape), dtype=torch.uint8)
    # The exporter reports every optional package it does not find.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (example,),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}},
            input_names=[INPUT],
            output_names=[*OUTPUTS, *(HEAD_PREFIX + name for name in heads)],
            external_data=False,
            verbose=False,
        )


def check_export(net: Stage1Net, path: Path, images: Pixels) -> float:
    """Compare the compiled engine with torch at several batch sizes.

    Args:
        net: what was exported.
        path: the ONNX file.
        images: uint8 `(N, 3, H, W)`, N at least the largest of the batch sizes.

    Returns:
        The largest difference of any output.

    Raises:
        TrainingError: a difference above the tolerance.
    """
    engine = OnnxEngine(path)
    worst = 0.0
    for size in PARITY_BATCHES:
        expected, actual = predict(net, images[:size]), engine.infer(images[:size])
        pairs = [(expected.logits, actual.logits), (expected.select_score, actual.select_score)]
        pairs += [(logits, actual.heads[name]) for name, logits in expected.heads.items()]
        worst = max(worst, *(float(np.abs(ours - theirs).max()) for ours, theirs in pairs))
    engine.close()
    if worst > PARITY_TOLERANCE:
        raise TrainingError(f"the ONNX graph differs from torch by {worst:.2g}, more than {PARITY_TOLERANCE:.2g}")
    return worst
