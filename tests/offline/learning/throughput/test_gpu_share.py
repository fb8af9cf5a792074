"""A share of a GPU: asked for before it is taken. The driver is a stand-in; torch's calls have its signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from offline.errors import GpuBusy  # noqa: E402
from offline.learning.throughput import gpu_share  # noqa: E402

GIB = 2**30


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """A GPU of 16 GiB of which 6 are free; the shares that were set."""
    shares: list[float] = []
    monkeypatch.setattr(gpu_share, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    return shares


def test_what_is_free_is_taken_and_no_more(bounded: list[float]) -> None:
    assert gpu_share.take_gpu_share(0.25) == "6.0 of 16.0 GiB of the GPU are free, and the night takes 4.0 at most"
    assert bounded == [0.25]


def test_what_is_not_free_puts_the_night_off(bounded: list[float]) -> None:
    with pytest.raises(GpuBusy, match=r"6\.0 of 16\.0 GiB.* may take 8\.0") as error:
        gpu_share.take_gpu_share(0.5)
    assert (error.value.exit_status, bounded) == (75, [])


def test_without_a_gpu_there_is_nothing_to_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_share, "DRIVER", tmp_path / "none")
    assert gpu_share.take_gpu_share(0.5) is None
