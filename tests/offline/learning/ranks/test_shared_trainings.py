"""Two processes that share a training are one process, up to the order in which a sum is rounded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from offline.errors import TrainingError
from offline.learning.augmentation import light
from offline.learning.ranks import team
from offline.learning.ranks.launch import is_first, processes
from offline.learning.ranks.shard import Shard, check_shares
from offline.learning.settings import TrainSettings
from offline.learning.supervised.inputs import FreshViews
from stage1.model.net import Stage1Net
from tests.offline.learning.ranks.shared_trainings import coloured, trained, weights
from tests.support.ports import free_port

ROOT = Path(__file__).parents[4]


def torchrun(kind: str, place: Path, stop: int = -1) -> list[int]:
    """Exit statuses of two processes that meet as those of `torchrun` do."""
    place.mkdir(exist_ok=True)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    common = os.environ | meeting | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("trains_child.py")), kind, str(place), str(stop)]
    children = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
    return [child.wait(timeout=120) for child in children]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "fsam", "adapt"])
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    assert torchrun(kind, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"weights-{rank}", weights_only=True) for rank in range(2))
    # The processes have the very same weights, or they would drift apart.
    assert torch.equal(first, second)
    alone = weights(trained(kind, None, lambda *_: None, parts=2))
    untrained = weights(trained_not(kind))
    moved = float((alone - untrained).abs().max())
    assert moved > 1e-4
    # Sums are rounded in another order, which Adam makes a little larger.
    assert float((first - alone).abs().max()) < 0.05 * moved


def trained_not(kind: str) -> Stage1Net:
    """The network before a training of this kind."""
    from stage1.model.adapters.attach import add_adapters  # noqa: PLC0415
    from stage1.model.backbones import build  # noqa: PLC0415
    from tests.offline.learning.ranks.shared_trainings import MODEL, SIZE_PX  # noqa: PLC0415

    made = build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=0)
    if kind != "adapt":
        add_adapters(made, MODEL)
    return made


@pytest.mark.slow
def test_a_shared_training_that_is_told_to_end_on_one_process_ends_on_both_and_goes_on(tmp_path: Path) -> None:
    assert torchrun("adamw", tmp_path / "whole") == [0, 0]
    # The one that is told is not the one that writes the checkpoint.
    assert torchrun("adamw", tmp_path / "cut", stop=3) == [75, 75]
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["training.checkpoint"]
    assert torchrun("adamw", tmp_path / "cut") == [0, 0]
    whole, cut = (torch.load(tmp_path / name / "weights-0", weights_only=True) for name in ("whole", "cut"))
    assert torch.equal(whole, cut)


def test_a_process_that_is_alone_is_the_first_and_has_everything() -> None:
    assert (team.size(), team.rank(), team.leads(), processes(), is_first()) == (1, 0, True, 1, True)
    assert team.shared("word") == "word"
    assert team.total(2.5) == 2.5
    assert not team.any_of(flag=False)
    assert np.array_equal(team.own(np.arange(5)), np.arange(5))


@pytest.mark.parametrize("count", [2, 5, 7, 12])
@pytest.mark.parametrize("size", [2, 3])
def test_every_row_of_a_batch_is_of_one_process(count: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "size", lambda: size)
    found = []
    for rank in range(size):
        monkeypatch.setattr(team, "rank", lambda rank=rank: rank)
        found += team.own(np.arange(count)).tolist()
    assert found == list(range(count))


def test_what_a_process_draws_is_its_part_of_what_one_would_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = FreshViews(coloured(9, 3).images, light, torch.device("cpu"))
    rows, whole = np.array([4, 0, 8, 2, 2]), torch.Generator().manual_seed(7)
    expected = inputs.draw(rows, whole)
    monkeypatch.setattr(team, "size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(team, "rank", lambda rank=rank: rank)
        own = torch.Generator().manual_seed(7)
        parts.append(Shard(inputs).draw(rows, own))
        assert torch.equal(own.get_state(), whole.get_state())
    assert torch.equal(torch.cat(parts), expected)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "size", lambda: 4)
    with pytest.raises(TrainingError, match=r"4 processes share a batch of 2 images: set train_supervised\.batch_size"):
        check_shares(TrainSettings(batch_size=2))
    with pytest.raises(TrainingError, match="selectivenet, which holds a whole batch to a coverage"):
        check_shares(TrainSettings(selection="selectivenet"))
