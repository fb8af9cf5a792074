"""One-sided adaptation of t0 to misses that audits see.

References:
    Gibbs, Candes (2021), Adaptive conformal inference under distribution shift, NeurIPS.
"""

from __future__ import annotations


def theta_after(theta: float, x: float, *, gamma: float, most: float) -> float:
    """What is taken off the certified t0, in logits, after an audit; never negative, so t0 is never above it.

    Args:
        theta: before it.
        x: weighted loss minus alpha times the weighted trial.
        gamma: step.
        most: largest theta.
    """
    return min(max(theta + gamma * x, 0.0), most)
