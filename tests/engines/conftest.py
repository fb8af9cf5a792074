"""Plans that TensorRT-RTX builds here, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.tensorrt_build import Plan, build_plan
from engines.tensorrt_flavour import Flavour, load_flavour


@pytest.fixture(scope="session")
def flavour() -> Flavour:
    """The TensorRT that is on PyPI."""
    pytest.importorskip("tensorrt_rtx")
    return load_flavour("tensorrt_rtx")


@pytest.fixture(scope="session")
def plan(tiny_engine: Path, flavour: Flavour) -> Plan:
    """Of the tiny linear engine."""
    return build_plan(tiny_engine, flavour=flavour)
