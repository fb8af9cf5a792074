"""What is known in the field to break, or to slow down, a vision transformer in TensorRT, read from the graph itself.

Each fact has a name, by which a log or an engine's record speaks of it. Sources: the transformer guide and the release
notes of TensorRT 10.14 to 11.4 (where fusion needs the scale of attention, and what it does with a decomposed norm),
DeepStream-Yolo issue 647 (decomposed norms overflow), NVIDIA/TensorRT issues 4742 and 4837 (attention that is
miscompiled), and the ONNX standard (bf16 convolutions since opset 22).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

OPSETS = range(20, 23)
FIRST_OPSET_OF_BF16_CONVOLUTIONS = 22
# What may stand between the product of queries and keys and its softmax, beside a mask that is added.
_NEUTRAL = frozenset({"Cast", "Reshape", "Transpose", "Identity", "Add", "Where"})
_SCALES = frozenset({"Mul", "Div"})


@dataclass(frozen=True)
class BrokenFact:
    """A fact that a graph breaks.

    Attributes:
        fact: its name.
        found: what was found instead, for a person.
    """

    fact: str
    found: str

    def __str__(self) -> str:
        return f"{self.fact}: {self.found}"


class Graph:
    """An ONNX graph with the ways between its nodes.

    Args:
        path: an ONNX file; weights beside it are not read.
    """

    def __init__(self, path: Path) -> None:
        # Not part of what a live miner installs.
        import onnx  # noqa: PLC0415

        model = onnx.load(str(path), load_external_data=False)
        self.opset: int = next((found.version for found in model.opset_import if not found.domain), 0)
        self.nodes: list[Any] = list(model.graph.node)
        self.types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self.bf16: int = onnx.TensorProto.BFLOAT16
        self._makers = {output: node for node in self.nodes for output in node.output}

    def maker(self, tensor: str) -> Any:  # noqa: ANN401  onnx has no types
        """The node that makes a tensor; None for an input or a weight."""
        return self._makers.get(tensor)

    def of(self, *kinds: str) -> list[Any]:
        """Nodes of these kinds."""
        return [node for node in self.nodes if node.op_type in kinds]

    @cached_property
    def attentions(self) -> list[tuple[Any, bool]]:
        """Each softmax over a product of two tensors that depend on the image, and whether it is scaled in between."""
        found = []
        for softmax in self.of("Softmax"):
            node, scaled = self.maker(softmax.input[0]), False
            while node is not None and node.op_type in _NEUTRAL | _SCALES:
                scaled |= node.op_type in _SCALES
                node = self._main(node)
            if node is not None and node.op_type == "MatMul" and all(self.maker(name) for name in node.input):
                found.append((softmax, scaled))
        return found

    def _main(self, node: Any) -> Any:  # noqa: ANN401
        """The node whose tensor another one changes: the first of its inputs that was made by a node."""
        return next((self.maker(name) for name in node.input if self.maker(name) is not None), None)


def broken_facts(path: Path) -> list[BrokenFact]:
    """The facts that a graph breaks; none for what this program exports of a DINO.

    Args:
        path: an ONNX file; weights beside it are not read.
    """
    graph = Graph(path)
    return [*_opset(graph), *_attention(graph), *_norms(graph), *_convolutions(graph)]


def _opset(graph: Graph) -> Iterator[BrokenFact]:
    if graph.opset not in OPSETS:
        yield BrokenFact("opset", f"it is {graph.opset}, and {OPSETS[0]} to {OPSETS[-1]} are tried")


def _attention(graph: Graph) -> Iterator[BrokenFact]:
    late = [softmax.name for softmax, scaled in graph.attentions if scaled]
    if late:
        yield BrokenFact(
            "scale_before_product", f"{late[0]} and {len(late) - 1} more scale the product of queries and keys"
        )
    whole = graph.of("Attention")
    if whole:
        yield BrokenFact(
            "primitive_attention", f"{whole[0].name} is one operator, which has no other way if no kernel takes it"
        )


def _norms(graph: Graph) -> Iterator[BrokenFact]:
    decomposed = [root.name for root in graph.of("Sqrt") if _is_root_of_variance(graph, root)]
    if decomposed:
        yield BrokenFact("native_norms", f"{decomposed[0]} and {len(decomposed) - 1} more are norms in single steps")
    blocks, native = len(graph.attentions), len(graph.of("LayerNormalization", "RMSNormalization"))
    # Two in each block and one behind the last.
    if blocks and not decomposed and native < 2 * blocks + 1:
        yield BrokenFact("native_norms", f"{blocks} blocks with {native} norms, {2 * blocks + 1} at least are expected")


def _is_root_of_variance(graph: Graph, root: Any) -> bool:  # noqa: ANN401
    """Whether a root is taken of a mean, to which a small number may have been added."""
    node = graph.maker(root.input[0])
    while node is not None and node.op_type in {"Add", "Cast", "Identity"}:
        node = graph._main(node)  # noqa: SLF001
    return node is not None and node.op_type == "ReduceMean"


def _convolutions(graph: Graph) -> Iterator[BrokenFact]:
    if graph.opset >= FIRST_OPSET_OF_BF16_CONVOLUTIONS:
        return
    early = [node.name for node in graph.of("Conv") if graph.types.get(node.input[1]) == graph.bf16]
    if early:
        yield BrokenFact(
            "no_early_bf16_convolution",
            f"{early[0]} and {len(early) - 1} more in bf16 at opset {graph.opset}, which has them since "
            f"{FIRST_OPSET_OF_BF16_CONVOLUTIONS}",
        )
