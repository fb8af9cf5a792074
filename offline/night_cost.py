"""What the trainings of a night cost, before any of them begins."""

from __future__ import annotations

from offline.config import RunConfig
from offline.data.sources.unlabelled import count_images
from offline.learning.throughput.cost import NightCost, Rows, transformer_of, words


def night_cost(config: RunConfig) -> NightCost | None:
    """What the trainings of a config cost; None if the shape of its backbone is not known.

    Args:
        config: of the run.
    """
    transformer = transformer_of(config.model)
    if transformer is None:
        return None
    return NightCost(
        transformer,
        config.preprocess,
        config.model,
        config.train_supervised,
        config.train_conformal_risk,
        config.adapt_domain,
        config.compare_training,
    )


def cost_words(config: RunConfig, count: int) -> str | None:
    """What a night on so many rows costs; None if the shape of its backbone is not known.

    Args:
        config: of the run.
        count: rows.
    """
    cost, shares = night_cost(config), config.splits
    if cost is None:
        return None
    unlabelled = sum(map(count_images, config.adapt_domain.images)) if config.adapt_domain.enabled else 0
    train, select, test = (round(count * share) for share in (shares.train, shares.val_select, shares.test))
    parts = cost.parts(Rows(train, select, test, unlabelled))
    return words(parts, cost.training_bytes(), config.train_supervised.batch_size)
