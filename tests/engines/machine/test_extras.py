"""What is installed for a GPU is what the package offers, what the documents say, and for backends that there are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from engines.backends.registry import BACKENDS
from engines.machine.extras import CUDA_12_DRIVER, CUDA_13_DRIVER, EXTRAS, Extra

ROOT = Path(__file__).parents[3]
OFFERED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
DOCUMENT = (ROOT / "docs" / "engines.md").read_text()


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: extra.name)
def test_each_is_offered_and_documented(extra: Extra) -> None:
    assert extra.name in OFFERED
    assert extra.backend in BACKENDS
    assert all(command in DOCUMENT for command in extra.commands)
    assert str(extra.driver) in DOCUMENT


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: extra.name)
def test_the_driver_goes_with_the_cuda_of_its_packages(extra: Extra) -> None:
    older = any("cu12" in package for package in OFFERED[extra.name])
    assert extra.driver == (CUDA_12_DRIVER if older else CUDA_13_DRIVER)


def test_the_extra_for_a_cpu_brings_nothing_that_is_not_there_anyway() -> None:
    assert OFFERED["cpu"] == []
    assert any(package.startswith("onnxruntime>=") for package in _dependencies())


def test_a_default_install_brings_no_runtime_of_a_gpu() -> None:
    assert not [package for package in _dependencies() if "gpu" in package or "tensorrt" in package]


def _dependencies() -> list[str]:
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return found
