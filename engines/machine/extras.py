"""What is installed for a GPU: by which commands, for which cards, and with which driver at least.

Drivers: packages for CUDA 13 need release 580, those for CUDA 12 run from release 535 on (TensorRT 11.4.0,
prerequisites). `nvidia-smi` tells the release of the driver in its first line.
"""

from __future__ import annotations

from dataclasses import dataclass

CUDA_13_DRIVER, CUDA_12_DRIVER = 580, 535
_NVIDIA = "--extra-index-url https://pypi.nvidia.com"


@dataclass(frozen=True)
class Extra:
    """An extra of this package.

    Attributes:
        name: in square brackets behind the name of the package.
        backend: of `engines.backends.registry.BACKENDS`.
        cards: on which it runs.
        driver: least release of NVIDIA's driver.
        commands: one after another.
    """

    name: str
    backend: str
    cards: str
    driver: int
    commands: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.name:<9} {self.backend}: {self.cards}; driver {self.driver} or newer"
        return "\n".join([head, *(f"{'':<10}{command}" for command in self.commands)])


EXTRAS = (
    Extra(
        "gpu",
        "onnxruntime-cuda",
        "RTX 20 to 50, L40S, A100, H100, H200",
        CUDA_13_DRIVER,
        (
            "pip install 'streetvision-cascade[gpu]'",
            # Both share a directory, and the last one that is written wins: the one for a CPU, more often than not.
            "pip uninstall -y onnxruntime onnxruntime-gpu",
            "pip install --no-deps 'onnxruntime-gpu>=1.31'",
        ),
    ),
    Extra(
        "rtx",
        "onnxruntime-rtx",
        "RTX 30, 40 and 50, L40S; not H100 and H200",
        CUDA_13_DRIVER,
        ("pip install 'streetvision-cascade[rtx]'",),
    ),
    Extra(
        "trt-rtx",
        "tensorrt",
        "RTX 30, 40 and 50, L40S; not H100 and H200",
        CUDA_13_DRIVER,
        ("pip install 'streetvision-cascade[trt-rtx]'",),
    ),
    Extra(
        "trt",
        "tensorrt",
        "RTX 20 to 50, L40S, A100, H100, H200",
        CUDA_13_DRIVER,
        (f"pip install {_NVIDIA} 'streetvision-cascade[trt]'",),
    ),
    Extra(
        "trt-cu12",
        "tensorrt",
        "the same, on machines with an older driver",
        CUDA_12_DRIVER,
        (f"pip install {_NVIDIA} 'streetvision-cascade[trt-cu12]'",),
    ),
)
