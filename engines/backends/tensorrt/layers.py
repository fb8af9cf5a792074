"""What TensorRT really built: the layers of an engine, by its inspector, or without a GPU by the log of the build.

TensorRT 11 with a switch of 10 in the code built fp32 and said nothing (roboflow/rf-detr issue 1453); so the precision
of an engine is read from its products, and not from what was asked for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engines.errors import BuildFailed
from engines.spec import Precision

# How the libraries call a type, in the inspector and in the log.
_TYPES = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "half": "fp16",
    "fp16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
    "int8": "int8",
    "fp8": "fp8",
}
_TYPE = re.compile(rf"\b({'|'.join(_TYPES)})\b", re.IGNORECASE)
# Kinds and names of layers that multiply matrices, alone or fused with what follows.
_PRODUCT = re.compile(
    r"gemm|correlation|convolution|matrixmultiply|fullyconnected|mha|(^|_)myl_fc|\bconv", re.IGNORECASE
)
_FUSED_ATTENTION = re.compile(r"mha", re.IGNORECASE)
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs): "
)
_DATATYPE = re.compile(r"Datatype: ([^,}]+)")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: of the kernel, or of the node that it is made of.
        kind: the library's word for it.
        types: of its inputs, in order; what is not a number is left out.
    """

    name: str
    kind: str
    types: tuple[str, ...]

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices."""
        return bool(self.types) and bool(_PRODUCT.search(self.kind) or _PRODUCT.search(self.name))


def layers_of_inspector(text: str) -> list[Layer]:
    """Layers as `EngineInspector.get_engine_information` tells them in JSON.

    Args:
        text: its answer; of an engine that was built with detailed profiling, or there are only names in it.
    """
    try:
        told: Any = json.loads(text)
    except ValueError:
        return []
    listed = told.get("Layers", []) if isinstance(told, Mapping) else []
    return [_of_mapping(layer) for layer in listed if isinstance(layer, Mapping)]


def layers_of_log(text: str) -> list[Layer]:
    """Layers as the log of a build tells them.

    Args:
        text: from `LayerListing`.
    """
    found = []
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match:
            types = _types(_DATATYPE.findall(match["inputs"]))
            found.append(Layer(match["name"], match["kind"], types))
    return found


def products_by_type(layers: Iterable[Layer]) -> dict[str, int]:
    """How many layers multiply in each type, the most frequent first.

    Args:
        layers: of an engine.
    """
    return dict(Counter(layer.types[0] for layer in layers if layer.is_product).most_common())


def fused_attentions(layers: Iterable[Layer]) -> int:
    """Layers that compute a whole attention.

    Args:
        layers: of an engine.
    """
    return sum(bool(_FUSED_ATTENTION.search(layer.name) or _FUSED_ATTENTION.search(layer.kind)) for layer in layers)


def check_built(products: Mapping[str, int], precision: Precision, file: str) -> None:
    """Refuse an engine that computes in another precision than its graph says.

    In bf16 the pooling and the heads stay in fp32, which are a handful of products beside several in each block.

    Args:
        products: from `products_by_type`; empty where the library does not tell, which is not refused.
        precision: of the graph.
        file: of the graph.

    Raises:
        BuildFailed: it does.
    """
    expected = {"fp32"} if precision == "fp32" else {precision, "fp32"}
    others = sorted(set(products) - expected)
    if products and (others or 2 * products.get(precision, 0) <= sum(products.values())):
        told = ", ".join(f"{count} in {kind}" for kind, count in products.items())
        raise BuildFailed(f"{file}: asked for {precision}, and the products that were built are {told}")


def _of_mapping(layer: Mapping[str, Any]) -> Layer:
    inputs = [port for port in layer.get("Inputs", []) if isinstance(port, Mapping)]
    # "Datatype", and of older releases "Format/Datatype", which tells both in one.
    told = [str(value) for port in inputs for key, value in port.items() if key.lower().endswith("datatype")]
    return Layer(str(layer.get("Name", "")), str(layer.get("LayerType", "")), _types(told))


def _types(told: Iterable[str]) -> tuple[str, ...]:
    found = (_TYPE.search(name) for name in told)
    return tuple(_TYPES[match[1].lower()] for match in found if match)
