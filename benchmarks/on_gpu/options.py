"""On what the units run, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Found = dict[str, Any]


class Skipped(Exception):
    """A unit that has nothing to do here; says why."""


@dataclass(frozen=True)
class Options:
    """Of one call.

    Attributes:
        device: where it computes.
        small: whether networks and counts are those of a few seconds on a CPU.
        home: a directory of its own.
    """

    device: Literal["cpu", "cuda"]
    small: bool
    home: Path

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)
