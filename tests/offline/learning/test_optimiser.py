"""Optimisers: Friendly-SAM as its paper has it, micro-batches, loss scaling, averaging and the schedule."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offline.errors import TrainingError
from offline.learning.optimiser import (
    Average,
    average_decay,
    build_optimiser,
    build_schedule,
    layer_factors,
    parameter_groups,
    warm_up_cosine,
)
from offline.learning.precision import autocast, build_scaler
from offline.learning.settings import FSamSettings, TrainSettings
from offline.learning.supervised.sharpness import Climb
from offline.learning.update import Updater, halves
from stage1.model.adapters.attach import add_adapters
from stage1.model.backbones import build
from stage1.model.settings import ModelSettings, RandomBackbone

OPTIMISERS = ("adamw", "lion", "fsam")
Batch = tuple[Tensor, Tensor]


def network(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 2))


def data(count: int = 32, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((count, 6), generator=generator)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def settings(kind: str = "adamw", **changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({"optimiser": kind, "learning_rate": 1e-2, **changes})


def cross_entropy(net: nn.Module) -> Callable[[Batch], Tensor]:
    return lambda batch: nn.functional.cross_entropy(net(batch[0]), batch[1])


def groups(net: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(net.parameters()), "weight_decay": 0.02}]


def updater(net: nn.Module, kind: str = "adamw", *, train: dict[str, Any] | None = None, **more: Any) -> Updater[Batch]:
    wanted = settings(kind, **(train or {}))
    if kind == "fsam":
        more["climb"] = climb_of(net, wanted.fsam)
    return Updater(net, build_optimiser(groups(net), wanted), more.pop("loss", cross_entropy(net)), **more)


def climb_of(net: nn.Module, sam: FSamSettings) -> Climb:
    """As long as the paper's: the length does not depend on the weights."""
    return Climb(list(net.parameters()), lambda: sam.rho, sigma=sam.sigma, momentum=sam.momentum)


def flat(net: nn.Module) -> Tensor:
    vector: Tensor = torch.cat([p.detach().flatten() for p in net.parameters()])
    return vector


def parts(batch: Batch, count: int) -> list[Batch]:
    return list(zip(batch[0].tensor_split(count), batch[1].tensor_split(count), strict=True))


class PlainFriendlySam:
    """Algorithm 1 of arXiv 2403.12350, on one flat vector, with whatever takes the step."""

    def __init__(self, net: nn.Module, *, rho: float, sigma: float, momentum: float) -> None:
        self.net, self.rho, self.sigma, self.momentum = net, rho, sigma, momentum
        self.mean: Tensor | None = None

    def gradient(self, loss: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        found = torch.autograd.grad(loss(batch), list(self.net.parameters()))
        vector: Tensor = torch.cat([g.flatten() for g in found])
        return vector

    def sharp_gradient(self, loss: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """The gradient at the point that is climbed to."""
        start, plain = flat(self.net), self.gradient(loss, batch)
        own = plain if self.mean is None else plain - self.sigma * self.mean
        self.mean = plain if self.mean is None else self.momentum * self.mean + (1 - self.momentum) * plain
        nn.utils.vector_to_parameters(start + self.rho * own / (own.norm() + 1e-12), self.net.parameters())
        sharp = self.gradient(loss, batch)
        nn.utils.vector_to_parameters(start, self.net.parameters())
        return sharp


class PlainAdamW:
    def __init__(self, rate: float, decay: float) -> None:
        self.rate, self.decay, self.step_number = rate, decay, 0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def __call__(self, weights: Tensor, gradient: Tensor) -> Tensor:
        self.step_number += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        corrected = self.first / (1 - 0.9**self.step_number)
        scale = (self.second / (1 - 0.999**self.step_number)).sqrt() + 1e-8
        return weights * (1 - self.rate * self.decay) - self.rate * corrected / scale


class PlainLion:
    def __init__(self, rate: float, decay: float) -> None:
        self.rate, self.decay = rate, decay
        self.mean: Tensor | float = 0.0

    def __call__(self, weights: Tensor, gradient: Tensor) -> Tensor:
        direction = (0.9 * self.mean + 0.1 * gradient).sign()
        self.mean = 0.99 * self.mean + 0.01 * gradient
        return weights * (1 - self.rate * self.decay) - self.rate * direction


PLAIN: dict[str, Any] = {"adamw": PlainAdamW, "lion": PlainLion}


@pytest.mark.parametrize("base", ["adamw", "lion"])
@pytest.mark.parametrize(("sigma", "momentum"), [(1.0, 0.9), (0.5, 0.6), (0.0, 0.9)])
def test_friendly_sam_is_the_algorithm_of_its_paper(base: str, sigma: float, momentum: float) -> None:
    mine, plain = network().double(), network().double()
    sam = {"base": base, "rho": 0.1, "sigma": sigma, "momentum": momentum}
    made = updater(mine, "fsam", train={"fsam": sam})
    climb, step = PlainFriendlySam(plain, rho=0.1, sigma=sigma, momentum=momentum), PLAIN[base](1e-2, 0.02)
    for number in range(30):
        inputs, labels = data(16, seed=number)
        batch = inputs.double(), labels
        made.update([batch])
        sharp = climb.sharp_gradient(cross_entropy(plain), batch)
        nn.utils.vector_to_parameters(step(flat(plain), sharp), plain.parameters())
    # Lion's sign turns a rounding error of a gradient near 0 into a whole step; in float64 there is none.
    assert torch.allclose(flat(mine), flat(plain), atol=1e-7, rtol=0)
    assert (flat(mine) - flat(network().double())).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["adamw", "lion"])
def test_the_other_optimisers_are_what_their_papers_say(kind: str) -> None:
    mine, plain = network().double(), network().double()
    made, step = updater(mine, kind), PLAIN[kind](1e-2, 0.02)
    for number in range(20):
        inputs, labels = data(16, seed=number)
        batch = inputs.double(), labels
        made.update([batch])
        gradient = PlainFriendlySam(plain, rho=0, sigma=0, momentum=0).gradient(cross_entropy(plain), batch)
        nn.utils.vector_to_parameters(step(flat(plain), gradient), plain.parameters())
    assert torch.allclose(flat(mine), flat(plain), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("count", [2, 5, 32])
def test_a_batch_in_parts_is_the_whole_batch(kind: str, count: int) -> None:
    """Also in unequal parts: 32 rows in 5 parts are two of 7 and three of 6."""
    whole, cut = network().double(), network().double()
    one, many = updater(whole, kind, clip=0.5), updater(cut, kind, clip=0.5)
    for number in range(10):
        inputs, labels = data(seed=number)
        batch = inputs.double(), labels
        split = parts(batch, count)
        expected = one.update([batch])
        found = many.update(split, [len(y) / 32 for _, y in split])
        assert found.loss == pytest.approx(expected.loss, abs=1e-12)
    assert torch.allclose(flat(cut), flat(whole), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_pass_that_is_not_the_last_part_does_not_synchronise(kind: str) -> None:
    events: list[str] = []

    class Wrapped(nn.Module):
        """Stands for DistributedDataParallel, which synchronises in the backward pass outside `no_sync`."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.held = network(), False

        def no_sync(self) -> Any:
            wrapped = self

            class Held:
                def __enter__(self) -> None:
                    wrapped.held = True

                def __exit__(self, *_: object) -> None:
                    wrapped.held = False

            return Held()

        def forward(self, inputs: Tensor) -> Tensor:
            events.append("hold" if self.held else "sync")
            logits: Tensor = self.inner(inputs)
            return logits

    net = Wrapped()
    updater(net, kind).update(parts(data(), 3))
    one_pass = ["hold", "hold", "sync"]
    assert events == one_pass * (2 if kind == "fsam" else 1)
    if kind == "fsam":
        events.clear()
        updater(net, kind, local_climb=True).update(parts(data(), 3))
        assert events == ["hold"] * 3 + one_pass


def test_both_passes_of_friendly_sam_draw_the_same_numbers() -> None:
    net, drawn = network(dropout=0.5), []

    def loss(batch: Batch) -> Tensor:
        drawn.append(torch.rand(3, generator=None).tolist())
        return cross_entropy(net)(batch)

    made = updater(net, "fsam", loss=loss)
    made.update(parts(data(), 2))
    made.update(parts(data(), 2))
    assert drawn[:2] == drawn[2:4]
    assert drawn[4:6] == drawn[6:8]
    # The next step does not draw them again, and the two parts of a batch differ.
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[4]


def test_only_the_gradient_that_is_used_is_clipped() -> None:
    """With a tiny limit the climb is as long as ever; its direction comes from the whole first gradient."""
    net, seen = network(), []
    start = flat(net)

    def loss(batch: Batch) -> Tensor:
        seen.append(float((flat(net) - start).norm()))
        return cross_entropy(net)(batch)

    update = updater(net, "fsam", loss=loss, clip=1e-6, train={"fsam": {"rho": 0.3}}).update([data()])
    assert seen[0] == 0
    assert seen[1] == pytest.approx(0.3, rel=1e-4)
    assert update.norm > 1e-3


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_batch_that_is_not_finite_is_left_out(kind: str, scaled: bool) -> None:
    net = network()
    optimiser = build_optimiser(groups(net), settings(kind))
    scaler = build_scaler(torch.device("cpu"), "fp16") if scaled else None
    average, schedule = Average(net, 0.9), build_schedule(optimiser, 10, 0.0)
    climb = climb_of(net, FSamSettings()) if kind == "fsam" else None
    made = Updater(
        net,
        optimiser,
        cross_entropy(net),
        scaler=scaler,
        average=average,
        schedule=schedule,
        climb=climb,
        clip=1.0,
    )
    assert made.update([data()]).stepped

    def states() -> list[Tensor]:
        return _tensors(optimiser.state_dict()) + ([] if climb is None else [*climb.state_dict()["means"]])

    kept, state = flat(net), [tensor.clone() for tensor in states()]
    scale, rate = scaler.get_scale() if scaler else 1.0, optimiser.param_groups[0]["lr"]
    bad = data()[0].clone()
    bad[3, 2] = math.inf
    update = made.update([(bad, data()[1])])
    assert not update.stepped
    assert torch.equal(flat(net), kept)
    assert all(torch.equal(a, b) for a, b in zip(state, states(), strict=True))
    assert average.updates == 1
    assert optimiser.param_groups[0]["lr"] == rate
    if scaler is not None:
        assert scaler.get_scale() == scale / 2
    assert made.update([data()]).stepped
    assert torch.isfinite(flat(net)).all()


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in state.values():
        if isinstance(value, dict):
            found += _tensors(value)
        elif isinstance(value, Tensor):
            found.append(value.clone())
    return found


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_second_pass_that_is_not_finite_changes_nothing(kind: str) -> None:
    net, calls = network(), []

    def loss(batch: Batch) -> Tensor:
        calls.append(0)
        found = cross_entropy(net)(batch)
        return found * math.nan if len(calls) == (2 if kind == "fsam" else 1) else found

    before = flat(net)
    assert not updater(net, kind, loss=loss).update([data()]).stepped
    assert torch.equal(flat(net), before)


def test_a_second_pass_that_fails_leaves_the_weights_where_they_were() -> None:
    net, calls = network(), []

    def loss(batch: Batch) -> Tensor:
        calls.append(0)
        if len(calls) == 2:
            raise MemoryError
        return cross_entropy(net)(batch)

    before = flat(net)
    with pytest.raises(MemoryError):
        updater(net, "fsam", loss=loss).update([data()])
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_loss_scaling_changes_nothing_but_the_range(kind: str) -> None:
    plain, scaled = network().double(), network().double()
    # A scale that grows on the way: a momentum of gradients that were not unscaled would notice.
    scaler = torch.amp.GradScaler("cpu", init_scale=64, growth_interval=2)
    one, other = updater(plain, kind, clip=0.5), updater(scaled, kind, clip=0.5, scaler=scaler)
    for number in range(10):
        inputs, labels = data(seed=number)
        batch = inputs.double(), labels
        one.update(parts(batch, 2))
        other.update(parts(batch, 2))
    assert scaler.get_scale() > 64
    assert torch.allclose(flat(scaled), flat(plain), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns_the_same(kind: str, precision: Any) -> None:
    """Weights stay fp32; what differs is rounding in the forward pass."""
    cpu = torch.device("cpu")
    plain, reduced = network(), network()

    def loss(batch: Batch) -> Tensor:
        with autocast(cpu, precision):
            logits = reduced(batch[0])
        assert logits.dtype != torch.float32
        return nn.functional.cross_entropy(logits.float(), batch[1])

    one = updater(plain, kind)
    other = updater(reduced, kind, loss=loss, scaler=build_scaler(cpu, precision))
    first = last = 0.0
    for number in range(60):
        batch = data(64, seed=number % 4)
        expected, found = one.update([batch]).loss, other.update([batch])
        first, last = first or found.loss, found.loss
        assert found.stepped
    assert all(p.dtype == torch.float32 for p in reduced.parameters())
    assert last < 0.8 * first
    assert last == pytest.approx(expected, abs=0.1)


def test_the_average_is_by_hand_and_holds_only_what_trains() -> None:
    net = network()
    frozen = next(net.parameters()).requires_grad_(False)
    average, values = Average(net, 0.9), []
    trained = [p for p in net.parameters() if p.requires_grad]
    for number in range(4):
        with torch.no_grad():
            for p in trained:
                p.fill_(float(number))
        average.update()
        values.append(float(number))
    expected = values[0]
    for value in values[1:]:
        expected = 0.9 * expected + 0.1 * value
    assert average.updates == 4
    assert not any(t.shape == frozen.shape for t in average.state_dict().values())
    with average.in_place():
        assert all(torch.allclose(p, torch.full_like(p, expected)) for p in trained)
    assert all((p == 3).all() for p in trained)


def test_the_average_before_any_update_is_the_network() -> None:
    net = network()
    before = flat(net)
    with Average(net, 0.99).in_place():
        assert torch.equal(flat(net), before)


def test_weights_come_back_even_if_judging_the_average_fails() -> None:
    net = network()
    average, before = Average(net, 0.5), flat(net)
    average.update()
    with torch.no_grad():
        next(net.parameters()).add_(1)
    now = flat(net)
    with contextlib.suppress(ZeroDivisionError), average.in_place():
        assert torch.equal(flat(net), before)
        raise ZeroDivisionError
    assert torch.equal(flat(net), now)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_average_counts_updates_not_parts(kind: str) -> None:
    net = network()
    average = Average(net, 0.9)
    made = updater(net, kind, average=average)
    for number in range(3):
        made.update(parts(data(seed=number), 4))
    assert average.updates == 3


def test_schedule_values_by_hand() -> None:
    # 10 steps, 2 of which rise: thirds of the peak, then half a cosine over 8.
    expected = [1 / 3, 2 / 3, 1.0, *(0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 8))]
    assert [warm_up_cosine(step, 10, 0.2) for step in range(10)] == pytest.approx(expected)
    assert warm_up_cosine(6, 10, 0.2) == pytest.approx(0.5)
    assert [warm_up_cosine(step, 4, 0.0) for step in range(5)] == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])
    assert warm_up_cosine(11, 10, 0.2) == pytest.approx(0.0, abs=1e-12)
    assert warm_up_cosine(0, 1, 0.15) == 1.0


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_schedule_moves_the_rate_of_what_steps(kind: str) -> None:
    net = network()
    optimiser = build_optimiser(groups(net), settings(kind))
    schedule = build_schedule(optimiser, 4, 0.5)
    made = Updater(net, optimiser, cross_entropy(net), schedule=schedule)
    rates = []
    for _ in range(4):
        rates.append(optimiser.param_groups[0]["lr"])
        made.update([data()])
    assert rates == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 0.5e-2])


def test_the_settings_reach_the_optimiser() -> None:
    made = build_optimiser(groups(network()), settings("fsam", fsam=FSamSettings(base="lion")))
    group = made.param_groups[0]
    assert [group[name] for name in ("lr", "weight_decay")] == [1e-2, 0.02]
    assert [type(build_optimiser(groups(network()), settings(kind))).__name__ for kind in OPTIMISERS] == [
        "AdamW",
        "Lion",
        "AdamW",
    ]
    assert type(made).__name__ == "Lion"


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.0), (20, 0.0), (200, 0.9), (2000, 0.99)])
def test_the_average_forgets_over_a_twentieth_of_the_steps(steps: int, expected: float) -> None:
    assert average_decay("auto", steps) == pytest.approx(expected)
    assert average_decay(0.5, steps) == 0.5


def test_layers_learn_the_slower_the_deeper_they_are() -> None:
    model = ModelSettings(
        backbone=RandomBackbone(hidden=32, layers=3, heads=2, patch_px=8), last_layers=None, rank=4, adapter="lora"
    )
    net = build(model, shape=(32, 32), seed=0)
    add_adapters(net, model)
    factors = layer_factors(net, 0.5)
    by_name = {name: factors.get(p) for name, p in net.named_parameters() if p.requires_grad}
    for name, factor in by_name.items():
        expected = {"layer.0.": 0.125, "layer.1.": 0.25, "layer.2.": 0.5, "patch_embeddings": 0.0625}
        known = [value for part, value in expected.items() if part in name]
        assert factor == (known[0] if known else 1.0 if name.startswith("backbone") else None), name
    made = parameter_groups(net, 0.1, 1e-2, factors)
    assert [group["lr"] for group in made] == sorted((group["lr"] for group in made), reverse=True)
    rates = {id(p): group["lr"] for group in made for p in group["params"]}
    assert sorted(rates) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert rates[id(p)] == pytest.approx(1e-2 * (by_name[name] or 1.0))
    optimiser = build_optimiser(made, settings())
    schedule = build_schedule(optimiser, 4, 0.5)
    shares = {group["lr"] / before["lr"] for group, before in zip(optimiser.param_groups, made, strict=True)}
    assert len(shares) == 1
    assert schedule.get_last_lr()[0] == pytest.approx(1e-2 / 3)


def train_on_a_rank(rank: int, kind: str, place: Path) -> None:
    """One of two processes that train together; see `ranks_child.py`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place / 'meet'}", rank=rank, world_size=2)
    net = nn.parallel.DistributedDataParallel(network().double())
    made = updater(net, kind, clip=0.5)
    for number in range(4):
        made.update(_share(number, rank))
    left_out = made.update([(data()[0].double() * (math.inf if rank else 1), data()[1])])
    torch.save({"weights": flat(net), "left_out": not left_out.stepped}, place / f"rank{rank}")
    # A rank that ends while the other one still talks takes it down.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _share(number: int, rank: int) -> Sequence[Batch]:
    inputs, labels = data(32, seed=number)
    half = slice(16 * rank, 16 * rank + 16)
    return parts((inputs[half].double(), labels[half]), 2)


@pytest.mark.parametrize("kind", ["adamw", "fsam"])
def test_two_devices_are_one(tmp_path: Path, kind: str) -> None:
    """The ranks agree with each other and with one process; a batch that is bad on one is left out on both."""
    child = [sys.executable, str(Path(__file__).with_name("ranks_child.py"))]
    ranks = [subprocess.Popen([*child, str(rank), kind, str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(240) for rank in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in range(2)]
    alone = network().double()
    made = updater(alone, kind, clip=0.5)
    for number in range(4):
        inputs, labels = data(32, seed=number)
        made.update([(inputs.double(), labels)])
    assert torch.equal(found[0]["weights"], found[1]["weights"])
    assert torch.allclose(found[0]["weights"], flat(alone), atol=1e-9, rtol=0)
    assert found[0]["left_out"]
    assert found[1]["left_out"]


def scarce(net: nn.Module, rows: int, told: list[int]) -> Callable[[Batch], Tensor]:
    """A loss that memory is enough for if a part has at most so many rows."""
    loss = cross_entropy(net)

    def guarded(batch: Batch) -> Tensor:
        told.append(len(batch[0]))
        if len(batch[0]) > rows:
            # After a forward pass has drawn dropout, as on a GPU.
            loss(batch)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(batch)

    return guarded


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_out_of_memory_the_batch_goes_through_in_smaller_parts_and_the_step_is_the_same(
    kind: str, dropout: float
) -> None:
    """To the bit as if the parts had been so small from the start; dropout is drawn again from where it was."""
    told: list[int] = []
    ours, theirs = network(dropout=dropout), network(dropout=dropout)
    scarcely = updater(ours, kind, loss=scarce(ours, 8, told), halve=halves)
    amply = updater(theirs, kind)
    for step in range(3):
        batch = data(seed=step)
        for made, count in ((scarcely, 1 if step == 0 else 2**scarcely.halvings), (amply, 4)):
            torch.manual_seed(step)
            update = made.update(parts(batch, count))
            assert update.stepped
    assert torch.equal(flat(ours), flat(theirs))
    assert scarcely.halvings == 2
    # Once it is known, no pass is tried in vain.
    assert [rows for rows in told if rows > 8] == [32, 16]


def test_parts_of_unequal_size_weigh_what_they_hold() -> None:
    told: list[int] = []
    ours, theirs = network(), network()
    batch = data(count=13)
    updater(ours, loss=scarce(ours, 3, told), halve=halves).update([batch])
    updater(theirs).update([batch])
    assert flat(ours).tolist() == pytest.approx(flat(theirs).tolist(), abs=1e-6)


def test_what_was_found_out_of_memory_is_in_the_checkpoint() -> None:
    net = network()
    first = updater(net, loss=scarce(net, 8, []), halve=halves)
    first.update([data()])
    again = updater(net, halve=halves)
    again.load_state_dict(first.state_dict())
    assert again.halvings == first.halvings == 2


@pytest.mark.parametrize("halve", [halves, None])
def test_where_nothing_smaller_is_left_it_says_what_to_do(halve: Any) -> None:
    net = network()
    with pytest.raises(TrainingError, match=r"memory of the device is not enough.*gradient_checkpointing"):
        updater(net, loss=scarce(net, 0, []), halve=halve).update([data()])


def test_no_other_error_is_taken_for_a_lack_of_memory() -> None:
    def broken(_: Batch) -> Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        updater(network(), loss=broken, halve=halves).update([data()])
