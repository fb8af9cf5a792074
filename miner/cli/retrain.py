"""`cascade retrain` and `cascade engines compile`: what came of a night, in words."""

from __future__ import annotations

from collections.abc import Callable

from engines.store.file_names import PAGE
from miner.progress_display import JsonDisplay, RunDisplay, display
from offline.evaluation.training_comparison import TrainingComparison
from offline.night import NightOutcome
from offline.pipeline.run_files import COMPARISON
from offline.report.training_section import gain_lines


def shown(night: Callable[[RunDisplay], NightOutcome], progress: str) -> str:
    """Run a night on a display and say what came of it.

    Args:
        night: runs it.
        progress: kind of display.

    Returns:
        The outcome in words; empty for the display of a program, which is told the run's directory instead.
    """
    with display(progress) as screen:
        outcome = night(screen)
        if isinstance(screen, JsonDisplay):
            screen.finished(str(outcome.run))
            return ""
    return told(outcome)


def told(outcome: NightOutcome) -> str:
    """A night in words."""
    publication, params = outcome.publication, outcome.params
    if publication is None or params is None:
        return f"{outcome.last} is done; its files are in {outcome.run}"
    verdict = "is current now" if outcome.current else f"stays a challenger: {'; '.join(publication.reasons)}"
    certificate = params.statement if params.rule is not None else params.reason
    gained = gain_lines(TrainingComparison.read(outcome.run / COMPARISON))
    return "\n".join(
        [
            f"bundle {publication.bundle} {verdict}",
            f"{params.status}: {certificate}",
            *(f"on the test rows, {line}" for line in gained),
            f"report: {outcome.run / PAGE}",
        ]
    )
