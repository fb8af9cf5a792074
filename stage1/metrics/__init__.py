"""How good a classifier, its confidence and its probabilities are, with intervals."""

from typing import TYPE_CHECKING

from stage1.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from stage1.metrics.bootstrap import interval, paired_difference
    from stage1.metrics.classification import accuracy, matthews_correlation
    from stage1.metrics.reliability import brier, expected_calibration_error
    from stage1.metrics.reward import subnet_reward
    from stage1.metrics.risk_coverage import Ranking, RiskCoverage, augrc, aurc

__all__ = [
    "Ranking",
    "RiskCoverage",
    "accuracy",
    "augrc",
    "aurc",
    "brier",
    "expected_calibration_error",
    "interval",
    "matthews_correlation",
    "paired_difference",
    "subnet_reward",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Ranking": "stage1.metrics.risk_coverage",
            "RiskCoverage": "stage1.metrics.risk_coverage",
            "accuracy": "stage1.metrics.classification",
            "augrc": "stage1.metrics.risk_coverage",
            "aurc": "stage1.metrics.risk_coverage",
            "brier": "stage1.metrics.reliability",
            "expected_calibration_error": "stage1.metrics.reliability",
            "interval": "stage1.metrics.bootstrap",
            "matthews_correlation": "stage1.metrics.classification",
            "paired_difference": "stage1.metrics.bootstrap",
            "subnet_reward": "stage1.metrics.reward",
        },
    )
