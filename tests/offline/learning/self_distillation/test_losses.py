"""Losses of self-distillation against plain evaluations of their formulas."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from offline.learning.self_distillation.losses import (
    STUDENT_TEMPERATURE,
    PrototypeHead,
    gram_loss,
    koleo,
    marginal_entropy,
    patch_loss,
    patch_weights,
    sinkhorn,
    view_loss,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    values: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def test_assignments_are_whole_and_clusters_of_equal_size() -> None:
    assigned = sinkhorn(drawn(64, 8), 0.3, rounds=50)
    assert torch.allclose(assigned.sum(1), torch.ones(64), atol=1e-5)
    assert torch.allclose(assigned.mean(0), torch.full((8,), 1 / 8), atol=1e-4)


def test_a_few_rounds_of_assignment_are_those_of_the_definition() -> None:
    scores = drawn(12, 5).numpy().astype(float)
    q = np.exp(scores / 0.2)
    for _ in range(3):
        q /= q.sum(0, keepdims=True)
        q /= q.sum(1, keepdims=True)
    assert np.allclose(sinkhorn(torch.from_numpy(scores), 0.2).numpy(), q, atol=1e-6)


def test_assignments_bear_scores_of_any_size() -> None:
    assigned = sinkhorn(1e4 * drawn(16, 4), 0.04)
    assert bool(torch.isfinite(assigned).all())
    assert torch.allclose(assigned.sum(1), torch.ones(16), atol=1e-5)


def assigned_on_a_rank(task: tuple[int, str]) -> Tensor:
    rank, meeting = task
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    assigned = sinkhorn(drawn(20, 6).split([7, 13])[rank], 0.1)
    distributed.destroy_process_group()
    return assigned


def test_two_processes_with_batches_of_any_size_assign_as_one(tmp_path: Path) -> None:
    tasks = [(rank, (tmp_path / "meeting").as_uri()) for rank in range(2)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assigned = torch.cat(list(pool.map(assigned_on_a_rank, tasks)))
    assert torch.allclose(assigned, sinkhorn(drawn(20, 6), 0.1), atol=1e-6)


def test_each_large_view_predicts_every_other_one() -> None:
    targets, scores = (
        [sinkhorn(drawn(6, 5, seed=n), 0.1) for n in range(2)],
        [drawn(6, 5, seed=9 + n) for n in range(4)],
    )
    terms = [
        -np.mean(np.sum(targets[i].numpy() * np.log(softmax(scores[j].numpy() / STUDENT_TEMPERATURE)), 1))
        for i in range(2)
        for j in range(4)
        if i != j
    ]
    assert float(view_loss(targets, scores)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_each_image_with_masked_patches_weighs_the_same() -> None:
    mask = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]])
    targets, scores = sinkhorn(drawn(4, 3), 0.2), drawn(4, 3, seed=1)
    losses = -np.sum(targets.numpy() * np.log(softmax(scores.numpy() / STUDENT_TEMPERATURE)), 1)
    expected = (losses[:3].mean() + losses[3]) / 3
    assert float(patch_loss(targets, scores, patch_weights(mask))) == pytest.approx(expected, rel=1e-5)


def test_spreading_is_the_log_distance_to_the_nearest_neighbour() -> None:
    features = drawn(7, 4).numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=2) + 10 * np.eye(7)
    assert float(koleo(torch.from_numpy(features))) == pytest.approx(-np.mean(np.log(apart.min(1))), abs=1e-4)


def test_neighbours_and_similarities_are_as_exact_in_a_forward_pass_in_bf16() -> None:
    near = drawn(1, 384) + 0.05 * drawn(64, 384, seed=1)
    patches = drawn(2, 50, 64)
    moved = patches + 0.01 * drawn(2, 50, 64, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = koleo(near), gram_loss(moved, patches)
    assert float(reduced[0]) == pytest.approx(float(koleo(near)), rel=1e-5)
    assert float(reduced[1]) == pytest.approx(float(gram_loss(moved, patches)), rel=1e-4)


def test_similar_patches_stay_similar_at_no_cost_and_a_rotation_costs_nothing() -> None:
    patches = drawn(2, 6, 4)
    rotation = torch.linalg.qr(drawn(4, 4, seed=3)).Q
    assert float(gram_loss(patches @ rotation, patches)) == pytest.approx(0.0, abs=1e-9)
    other = drawn(2, 6, 4, seed=2)
    now, start = (each.numpy() / np.linalg.norm(each.numpy(), axis=2, keepdims=True) for each in (other, patches))
    expected = np.mean((now @ now.transpose(0, 2, 1) - start @ start.transpose(0, 2, 1)) ** 2)
    assert float(gram_loss(other, patches)) == pytest.approx(expected, rel=1e-4)


def test_the_entropy_of_the_mean_assignment_tells_a_collapse() -> None:
    assert float(marginal_entropy(torch.full((5, 8), 1 / 8))) == pytest.approx(math.log(8), rel=1e-6)
    collapsed = torch.zeros(5, 8)
    collapsed[:, 3] = 1
    assert float(marginal_entropy(collapsed)) == pytest.approx(0.0, abs=1e-9)


def test_prototypes_have_unit_length_and_stay_so_and_the_head_can_be_copied() -> None:
    head = PrototypeHead(6, hidden=8, bottleneck=4, prototypes=10)
    optimiser = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], 0.5)
    before = head.prototypes.weight.detach().clone()
    head(drawn(16, 6)).square().sum().backward()
    optimiser.step()
    assert not torch.equal(head.prototypes.weight, before)
    assert torch.allclose(head.prototypes.weight.norm(dim=1), torch.ones(10), atol=1e-6)
    twin = copy.deepcopy(head)
    assert torch.equal(twin(drawn(3, 6)), head(drawn(3, 6)))
