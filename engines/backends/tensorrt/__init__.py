"""TensorRT: plans, and engines on a GPU."""
