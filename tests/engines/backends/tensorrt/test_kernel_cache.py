"""Kernels that TensorRT-RTX made are kept beside the plan, and used again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from engines.backends.tensorrt.build import Plan
from engines.backends.tensorrt.kernel_cache import KernelCache, cache_path
from engines.backends.tensorrt.library import Flavour
from tests.support.tensorrt import GPU


class Library:
    """What the library keeps; it takes nothing that it did not write."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, kept: bytes) -> bool:
        if not kept.startswith(b"good"):
            return False
        self.content = kept
        return True

    def serialize(self) -> bytes:
        return self.content


@pytest.fixture
def settings() -> Any:
    """As an `IRuntimeConfig`, with the cache that was set."""
    made = SimpleNamespace(cache=None, create_runtime_cache=Library)

    def take(cache: Library) -> bool:
        made.cache = cache
        return True

    made.set_runtime_cache = take
    return made


def test_what_was_made_is_used_by_the_next_engine(flavour: Flavour, settings: Any, tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "a.kernels"
    first = KernelCache(flavour, path)
    first.attach(settings)
    assert settings.cache.content == b""
    settings.cache.content = b"good kernels"
    first.save()
    assert path.read_bytes() == b"good kernels"
    KernelCache(flavour, path).attach(settings)
    assert settings.cache.content == b"good kernels"


def test_all_contexts_of_an_engine_share_it(flavour: Flavour, settings: Any, tmp_path: Path) -> None:
    cache = KernelCache(flavour, tmp_path / "a.kernels")
    cache.attach(settings)
    first = settings.cache
    cache.attach(settings)
    assert settings.cache is first


def test_it_is_written_where_there_is_something_new(flavour: Flavour, settings: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.kernels"
    cache = KernelCache(flavour, path)
    cache.save()
    cache.attach(settings)
    cache.save()
    assert not path.exists()
    settings.cache.content = b"good kernels"
    cache.save()
    path.write_bytes(b"what another process wrote")
    cache.save()
    assert path.read_bytes() == b"what another process wrote"


def test_what_the_library_does_not_take_is_made_anew(flavour: Flavour, settings: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.kernels"
    path.write_bytes(b"of another release")
    cache = KernelCache(flavour, path)
    cache.attach(settings)
    assert settings.cache.content == b""
    settings.cache.content = b"good kernels"
    cache.save()
    assert path.read_bytes() == b"good kernels"


def test_a_place_that_cannot_be_written_costs_the_engine_nothing(
    flavour: Flavour, settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(flavour, tmp_path / "file" / "a.kernels")
    cache.attach(settings)
    settings.cache.content = b"good kernels"
    with capture_logs() as logged:
        cache.save()
    assert [entry["event"] for entry in logged] == ["kernel_cache_not_written"]


def test_a_library_that_takes_none_is_told_of(flavour: Flavour, settings: Any, tmp_path: Path) -> None:
    settings.set_runtime_cache = lambda _: False
    with capture_logs() as logged:
        KernelCache(flavour, tmp_path / "a.kernels").attach(settings)
    assert [entry["event"] for entry in logged] == ["kernel_cache_refused"]


def test_it_is_kept_by_plan_gpu_release_and_cuda(plan: Plan, tmp_path: Path) -> None:
    described = plan.description
    others = [
        (described.model_copy(update={"plan_sha256": "0" * 64}), GPU),
        (described, GPU.model_copy(update={"compute_capability": "8.9"})),
        (described, GPU.model_copy(update={"driver": "13.1"})),
    ]
    paths = {cache_path(found, gpu, None, tmp_path) for found, gpu in [(described, GPU), *others]}
    assert len(paths) == 4
    assert all(path.parent == tmp_path / "streetvision-cascade" / "kernels" for path in paths)
    # A bundle is sealed; what was compiled here is not.
    assert cache_path(described, GPU, tmp_path / "compiled").parent == tmp_path / "compiled"


def test_the_library_that_is_installed_has_what_is_called(flavour: Flavour) -> None:
    config = flavour.trt.IRuntimeConfig
    assert all(hasattr(config, name) for name in ("create_runtime_cache", "set_runtime_cache"))
    assert all(hasattr(flavour.trt.IRuntimeCache, name) for name in ("serialize", "deserialize"))
