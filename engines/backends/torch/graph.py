"""An ONNX graph of this program as a torch module, for what compiles torch.

Integers that are shapes are kept as Python's own, so that a batch of any size can be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from engines.errors import BundleRefused

# A tensor, or a shape: whole numbers, of which one may be that of a batch that is being traced.
Value: TypeAlias = Any
LAST = np.iinfo(np.int64).max
# Whole numbers of one dimension up to this length are shapes, axes and sizes.
LONGEST_SHAPE = 16
_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.BOOL: torch.bool,
}


class OnnxModule(nn.Module):
    """Computes what a graph does.

    Args:
        path: an fp32 graph; its weights may lie beside it.
        products: type of matrix products; everything else stays fp32, and so do inputs and outputs.

    Raises:
        BundleRefused: it is no ONNX graph, or has an operator that is not known here.
    """

    def __init__(self, path: Path, products: torch.dtype = torch.float32) -> None:
        super().__init__()
        try:
            graph = onnx.load(str(path)).graph
        except Exception as error:  # protobuf's own, which has no types, or that of weights that are not there
            raise BundleRefused(f"{path.name}: not an ONNX model: {error}") from error
        unknown = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if unknown:
            raise BundleRefused(f"{path.name}: torch is not told how to compute {', '.join(unknown)}")
        self.products = products
        self.given, self.made = graph.input[0].name, [output.name for output in graph.output]
        self.nodes = [(node, _attributes(node)) for node in graph.node]
        self.constants: dict[str, Value] = {}
        self.buffers_of: dict[str, str] = {}
        for number, tensor in enumerate(graph.initializer):
            value = numpy_helper.to_array(tensor)
            if value.dtype == np.int64 and value.ndim <= 1 and value.size <= LONGEST_SHAPE:
                self.constants[tensor.name] = value.tolist()
            else:
                self.register_buffer(f"constant_{number}", torch.from_numpy(value.copy()), persistent=True)
                self.buffers_of[tensor.name] = f"constant_{number}"

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the graph for uint8 images `(N, 3, H, W)`."""
        values: dict[str, Value] = {self.given: image, **self.constants}
        values |= {name: getattr(self, buffer) for name, buffer in self.buffers_of.items()}
        for node, attributes in self.nodes:
            given = [values[name] if name else None for name in node.input]
            found = OPERATORS[node.op_type](self, given, attributes)
            made = found if len(node.output) > 1 else [found]
            values |= dict(zip(node.output, made, strict=True))
        return tuple(values[name] for name in self.made)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """A matrix product in the type of products, as fp32."""
        return torch.matmul(a.to(self.products), b.to(self.products)).float()


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


Operator: TypeAlias = Callable[[OnnxModule, list[Value], dict[str, Any]], Value]


def _elementwise(compute: Callable[..., Value]) -> Operator:
    return lambda _module, given, _attributes: compute(*map(_tensor, given))


def _tensor(value: Value) -> Value:
    """Whole numbers that are computed with: a tensor."""
    return torch.tensor(value) if isinstance(value, list) else value


def _sizes(value: Value) -> list[Any]:
    found = value.tolist() if isinstance(value, Tensor) else value
    return list(found) if isinstance(found, Sequence) else [found]


def _shape(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> list[Any]:
    return list(given[0].shape)[attributes.get("start", 0) : attributes.get("end")]


def _reshape(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    tensor, wanted = given[0], _sizes(given[1])
    if not attributes.get("allowzero", 0):
        wanted = [tensor.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return tensor.reshape(wanted)


def _concat(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    if any(isinstance(value, list) for value in given):
        return [size for value in given for size in _sizes(value)]
    return torch.cat(given, dim=attributes["axis"])


def _slice(_module: OnnxModule, given: list[Value], _attributes: dict[str, Any]) -> Value:
    value, starts, ends = given[0], _sizes(given[1]), _sizes(given[2])
    axes = _sizes(given[3]) if len(given) > 3 and given[3] is not None else list(range(len(starts)))
    steps = _sizes(given[4]) if len(given) > 4 and given[4] is not None else [1] * len(starts)
    ends = [None if end >= LAST else end for end in ends]
    if isinstance(value, list):
        return value[starts[0] : ends[0] : steps[0]]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = [slice(None)] * value.ndim
        whole[axis] = slice(start, end, step)
        value = value[tuple(whole)]
    return value


def _split(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    return torch.split(given[0], _sizes(given[1]), dim=attributes.get("axis", 0))


def _gather(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    value, where, axis = given[0], given[1], attributes.get("axis", 0)
    if isinstance(value, list):
        return value[where] if isinstance(where, int) else [value[place] for place in _sizes(where)]
    if isinstance(where, int):
        return value.select(axis, where)
    places = _tensor(where)
    return value.index_select(axis, places.flatten()).reshape(
        *value.shape[:axis], *places.shape, *value.shape[axis % value.ndim + 1 :]
    )


def _unsqueeze(_module: OnnxModule, given: list[Value], _attributes: dict[str, Any]) -> Value:
    if not isinstance(given[0], Tensor):
        return [given[0]]
    value = given[0]
    for axis in sorted(_sizes(given[1])):
        value = value.unsqueeze(axis)
    return value


def _squeeze(_module: OnnxModule, given: list[Value], _attributes: dict[str, Any]) -> Value:
    axes = _sizes(given[1]) if len(given) > 1 else [axis for axis, size in enumerate(given[0].shape) if size == 1]
    return given[0].squeeze(axes)


def _expand(_module: OnnxModule, given: list[Value], _attributes: dict[str, Any]) -> Value:
    wanted, value = _sizes(given[1]), given[0]
    extra = len(wanted) - value.ndim
    # A one in what is wanted keeps the size that is there.
    sizes = [value.shape[n - extra] if n >= extra and size == 1 else size for n, size in enumerate(wanted)]
    return value.expand(sizes)


def _cast(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    return given[0] if isinstance(given[0], list) else given[0].to(_TYPES[attributes["to"]])


def _conv(module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    image, weight = (value.to(module.products) for value in given[:2])
    pads = attributes.get("pads") or [0] * 4
    image = F.pad(image, (pads[1], pads[3], pads[0], pads[2])) if any(pads) else image
    options: dict[str, Any] = {"stride": attributes.get("strides") or 1, "dilation": attributes.get("dilations") or 1}
    made = F.conv2d(image, weight, groups=attributes.get("group", 1), **options).float()
    return made if len(given) < 3 else made + given[2].reshape(1, -1, 1, 1)


def _gemm(module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    a = given[0].T if attributes.get("transA") else given[0]
    b = given[1].T if attributes.get("transB") else given[1]
    made = attributes.get("alpha", 1.0) * module.product(a, b)
    return made if len(given) < 3 else made + attributes.get("beta", 1.0) * given[2]


def _layer_norm(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    shape = given[0].shape[attributes.get("axis", -1) :]
    return F.layer_norm(given[0], shape, given[1], given[2] if len(given) > 2 else None, attributes["epsilon"])


def _gelu(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
    return F.gelu(given[0], approximate=attributes.get("approximate", b"none").decode())


def _reduce(reduce: Callable[..., Value]) -> Operator:
    def compute(_module: OnnxModule, given: list[Value], attributes: dict[str, Any]) -> Value:
        axes = _sizes(given[1]) if len(given) > 1 else list(range(given[0].ndim))
        return reduce(given[0], dim=axes, keepdim=bool(attributes.get("keepdims", 1)))

    return compute


def _clip(_module: OnnxModule, given: list[Value], _attributes: dict[str, Any]) -> Value:
    low, high = (*given[1:], None, None)[:2]
    return torch.clamp(given[0], low, high)


OPERATORS: dict[str, Operator] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _elementwise(lambda a, b: a / b),
    "Erf": _elementwise(torch.erf),
    "Expand": _expand,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _elementwise(lambda a: a.mean((2, 3), keepdim=True)),
    "Identity": _elementwise(lambda a: a),
    "LayerNormalization": _layer_norm,
    "MatMul": lambda module, given, _: module.product(given[0], given[1]),
    "Mul": _elementwise(lambda a, b: a * b),
    "Neg": _elementwise(torch.neg),
    "Pow": _elementwise(torch.pow),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _elementwise(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda _, given, attributes: torch.softmax(given[0], dim=attributes.get("axis", -1)),
    "Split": _split,
    "Sqrt": _elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(lambda a, b: a - b),
    "Tanh": _elementwise(torch.tanh),
    "Transpose": lambda _, given, attributes: given[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
