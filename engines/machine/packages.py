"""Which packages are installed; of ONNX Runtime, whose distributions share one directory, more than one may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

# Every one brings the directory `onnxruntime`. Plugins such as `onnxruntime-ep-nv-tensorrt-rtx` have their own.
SHARED_DIRECTORY = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-training",
)


def versions_of(names: Iterable[str], find: Callable[[str], str] = version) -> dict[str, str]:
    """Versions of those of some distributions that are installed, by name.

    Args:
        names: of distributions.
        find: the version of one; raises `PackageNotFoundError` where it is not installed.
    """
    found = {}
    for name in names:
        try:
            found[name] = find(name)
        except PackageNotFoundError:
            continue
    return found


def installed_onnxruntimes(find: Callable[[str], str] = version) -> dict[str, str]:
    """Versions of the distributions that bring ONNX Runtime, by name.

    Args:
        find: as of `versions_of`.
    """
    return versions_of(SHARED_DIRECTORY, find)


def onnxruntime_conflict(find: Callable[[str], str] = version) -> str | None:
    """What is wrong if more than one ONNX Runtime is installed; None if it is one, or none.

    Whichever was written last is imported, and removing either removes files of the other.

    Args:
        find: as of `versions_of`.

    Returns:
        What is installed, what that leads to, and the commands that mend it.
    """
    found = installed_onnxruntimes(find)
    if len(found) < 2:
        return None
    kept = next((name for name in found if name != "onnxruntime"), "onnxruntime")
    named = " and ".join(f"{name} {number}" for name, number in found.items())
    return (
        f"{named} share one directory, and the one that was written last is in use: "
        f"pip uninstall -y {' '.join(found)}, and then pip install --no-deps {kept}=={found[kept]} for a GPU, or "
        "pip install --no-deps onnxruntime for a CPU or TensorRT-RTX"
    )
