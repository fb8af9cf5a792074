"""Which ONNX Runtime is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError

import pytest

from engines.machine.packages import SHARED_DIRECTORY, installed_onnxruntimes, onnxruntime_conflict


def having(**installed: str) -> Callable[[str], str]:
    def find(name: str) -> str:
        try:
            return installed[name.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(name) from None

    return find


@pytest.mark.parametrize("name", SHARED_DIRECTORY)
def test_one_alone_is_no_conflict(name: str) -> None:
    find = having(**{name.replace("-", "_"): "1.31.1"})
    assert installed_onnxruntimes(find) == {name: "1.31.1"}
    assert onnxruntime_conflict(find) is None


def test_none_is_no_conflict() -> None:
    assert onnxruntime_conflict(having()) is None


def test_two_are_named_with_their_versions_and_what_mends_it() -> None:
    told = onnxruntime_conflict(having(onnxruntime="1.32.0", onnxruntime_gpu="1.31.1"))
    assert told is not None
    assert told.startswith("onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 share one directory")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in told
    assert "pip install --no-deps onnxruntime-gpu==1.31.1" in told


def test_a_plugin_beside_it_is_no_conflict() -> None:
    assert onnxruntime_conflict(having(onnxruntime="1.32.0", onnxruntime_ep_nv_tensorrt_rtx="0.5.0")) is None


def test_what_is_installed_here_is_one() -> None:
    assert list(installed_onnxruntimes()) in (["onnxruntime"], ["onnxruntime-gpu"])
    assert onnxruntime_conflict() is None
