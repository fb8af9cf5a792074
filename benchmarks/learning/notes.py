"""What a reader of the tables must know."""

from __future__ import annotations

import os
import textwrap

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.learning.arena import Arena, Workplace
from benchmarks.learning.networks import backbone
from benchmarks.learning.plan import Plan, Results
from benchmarks.learning.scale import HEAD_HIDDEN, RANK, TUNING_SEED

WEIGHTS = "model.safetensors"


def notes(place: Workplace, plan: Plan, arena: Arena, results: Results, reason: str) -> str:
    """Notes under a table.

    Args:
        place: of the run.
        plan: of the table.
        arena: its data.
        results: of all tasks.
        reason: why a calibration certified nothing, empty if none failed.
    """
    paragraphs = _photographs(plan, arena) if plan.table.name == "a" else _streets(place, plan, arena)
    paragraphs += [_seeds(place, plan), _rates(plan), _costs(plan, results)]
    paragraphs.append(f"Adapters have rank {RANK}; heads have one hidden layer of {HEAD_HIDDEN}.")
    if reason:
        paragraphs.append(f"INFEASIBLE is what the calibration said, for example: {reason}")
    return "\n".join(
        textwrap.fill(" ".join(p.split()), 118, initial_indent="- ", subsequent_indent="  ") for p in paragraphs
    )


def _photographs(plan: Plan, arena: Arena) -> list[str]:
    scale, count = plan.scale, len(arena.test)
    positive = int(arena.data.labels[arena.test].sum())
    trained = sorted(len(fold.train) for fold in arena.folds)
    return [
        f"""{count} dashcam frames of {len(arena.folds)} cities ({positive} with roadwork), each answered by a network
        that saw nothing of its city; answers are pooled over cities. {len(arena.data) - count} ordinary frames of other
        sources train and choose, and are in no number here. {trained[0]} to {trained[-1]} rows train; two more cities
        and a quarter of the other sources choose.""",
        """Exit coverage: for each city, a rule is chosen on every third of the other cities and certified on the rest
        of them, by group, at 90% confidence. The uncertified rule is what the frames of the other cities would choose
        at 5%, as if frames were independent: descriptive.""",
        f"""{scale.photograph_epochs} epochs of adapters on the last three blocks and the final convolution, batch 8;
        {scale.head_epochs} epochs where heads alone train; {scale.steps} steps where heads are trained on.""",
    ]


def _streets(place: Workplace, plan: Plan, arena: Arena) -> list[str]:
    scale, fold = plan.scale, arena.folds[0]
    sizes = {"train": fold.train, "val_select": fold.val_select, "val_calib": arena.calib, "test": arena.test}
    groups = np.asarray(arena.data.groups)
    told = ", ".join(f"{name} {len(rows)} ({len(set(groups[rows].tolist()))} groups)" for name, rows in sizes.items())
    return [
        f"Synthetic scenes at {arena.size_px} px: {told}. They say nothing about real streets.",
        f"""Backbone: 8 blocks of width 96, patches of 16 px, {scale.pretraining_epochs} epochs of self-distillation
        from scratch on the unlabelled frames of {scale.pretraining_scenes} scenes of domain A. ExPLoRA:
        {scale.adaptation_epochs} epochs on the training images of domain B, once for each seed, judged by a linear
        probe: {_adapted(place, plan)} of {plan.seeds} seeds kept what came of it, the others what was.""",
        """Exit coverage is on the test rows, by a rule chosen on val_select and certified on val_calib, by group, at
        90% confidence; a seed for which nothing is certified counts as coverage 0.""",
        f"""{scale.street_epochs} epochs of adapters on the last four blocks, batch 32; {scale.head_epochs} epochs where
        heads alone train; {scale.steps} steps where heads are trained on.""",
    ]


def _adapted(place: Workplace, plan: Plan) -> int:
    """Seeds whose adapted backbone is another one than before."""
    before, *after = (load_file(backbone(place, "b", seed) / WEIGHTS) for seed in (None, *range(plan.seeds)))
    return sum(any(not torch.equal(tensor, found[name]) for name, tensor in before.items()) for found in after)


def _seeds(place: Workplace, plan: Plan) -> str:
    return f"""{plan.seeds} seeds a row; numbers are means over seeds. Their 95% intervals are percentiles of
        {place.scale.repetitions} replicates that draw groups of the test rows and seeds again, with replacement, the
        same ones for all rows of the table. With few seeds they are somewhat too short. No allowance is made for the
        number of comparisons. The baseline ranks by its softmax probability, everything else by the selection head."""


def _rates(plan: Plan) -> str:
    if not plan.tuned:
        return "Learning rates were not tuned."
    adapted = plan.scale.photograph_rates if plan.table.name == "a" else plan.scale.street_rates
    heads, adapters = (", ".join(f"{r:g}" for r in each) for each in (plan.scale.head_rates, adapted))
    folds = f" and {plan.scale.tuning_cities} of the cities" if plan.table.name == "a" else ""
    return f"""Each row tried as many learning rates with seed {TUNING_SEED}{folds}, which is not reported: {heads}
        where only heads train, {adapters} where adapters do. The one was taken whose checkpoint is best on val_select
        by what chooses checkpoints, too: exit coverage at the strict level, then at laxer ones, then log-loss; for the
        baseline, which has no selection head, log-loss. A star marks an end of the range."""


def _costs(plan: Plan, results: Results) -> str:
    ours = [result for key, result in results.items() if key.startswith(f"{plan.table.name}.run.")]
    waited = np.median([result.wall_s / result.cpu_s for result in ours if result.cpu_s > 0])
    filled = sum(result.filled for result in ours)
    return f"""Training seconds are wall time on one thread, two trainings at a time on {os.cpu_count()} cores (median
        {waited:.2f} times the processor time), with the states of the frozen blocks kept beforehand ({filled} views
        were missing). A row that starts from another, or from an adapted backbone, counts its time too, and trains on
        kept features. Memory is the most that a process held by the end of its
        first training; the libraries alone take about 370 MiB."""
