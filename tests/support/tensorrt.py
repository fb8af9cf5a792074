"""Engines for TensorRT, and a GPU that no machine here has."""

from __future__ import annotations

from engines.machine.gpu import Gpu
from engines.spec import EngineSpec

FP32 = EngineSpec(backend="tensorrt", device="cuda")
BF16 = EngineSpec(backend="tensorrt", device="cuda", precision="bf16")
GPU = Gpu(name="Some GPU", compute_capability="8.6", driver="13.0", total_bytes=24 << 30, free_bytes=20 << 30)
# What a plan says of a machine: this one, and one with another GPU.
HERE = {"gpu": "Some GPU", "compute_capability": "8.6", "driver_major": 13}
ELSEWHERE = {"gpu": "Another GPU", "compute_capability": "9.0", "driver_major": 13}
