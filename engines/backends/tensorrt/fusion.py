"""Keeping TensorRT from computing an attention in one kernel, which on some GPUs is silently wrong in bf16."""

from __future__ import annotations

from typing import Any

from engines.backends.tensorrt.library import Flavour

# Names of the outputs that keep an attention unfused: a number for each image, which nobody reads.
INNER = "inner."


def break_fusion(network: Any, flavour: Flavour) -> int:  # noqa: ANN401  the libraries have no types
    """Keep the library from computing an attention in one kernel.

    What goes into each softmax is needed a second time: its maximum becomes an output. So the product of queries and
    keys is written to memory, as if it were an output itself, which would take the memory of all of them at once.

    Args:
        network: parsed.
        flavour: the library.

    Returns:
        How many there are.
    """
    trt = flavour.trt
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    scores = [layer.get_input(0) for layer in layers if layer.type == trt.LayerType.SOFTMAX]
    for index, tensor in enumerate(scores):
        # All axes but the first, the images.
        axes = (1 << len(tensor.shape)) - 2
        output = network.add_reduce(tensor, trt.ReduceOperation.MAX, axes, keep_dims=False).get_output(0)
        output.name = f"{INNER}{index}"
        network.mark_output(output)
    return len(scores)
