"""`cascade retrain` and `cascade engines compile`: what came of a night, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.machine.clock import utc_now
from engines.machine.load_gauge import GAUGE
from engines.store.file_names import PAGE
from miner.nights.record import VERDICT, NightVerdict
from miner.progress_display import JsonDisplay, RunDisplay, display
from offline.certify.look_words import look_words
from offline.config import RunConfig
from offline.evaluation.training_comparison import TrainingComparison
from offline.learning.throughput.gpu_share import take_gpu_share
from offline.night import NightOutcome, plan_night
from offline.pipeline.choice import Choice
from offline.pipeline.pause import Pause, sleep_until_signal, slow_by
from offline.pipeline.plan import plan_words
from offline.pipeline.progress import Progress
from offline.pipeline.run_files import COMPARISON
from offline.pipeline.stage_times import duration_words
from offline.publish.comparison import Comparison
from offline.publish.gate import Publication
from offline.report.training_section import gain_lines
from stage1.certificate.params import ScrcParams

# Those of subgroups stand in `publish.json`.
SHOWN = ("accuracy", "exit coverage")
# Stages whose time is named, and the width of the names of the last lines.
SHOWN_STAGES, WIDEST = 3, 15


def shown(night: Callable[[RunDisplay], NightOutcome], progress: str, *, record: Path | None = None) -> str:
    """Run a night on a display and say what came of it.

    Args:
        night: runs it.
        progress: kind of display.
        record: directory of a miner's night, where a success is written down; None for nowhere.

    Returns:
        The outcome in words; empty for the display of a program, which is told the notes and the run's directory
        instead.
    """
    with display(progress) as screen:
        outcome = night(screen)
        if record is not None and outcome.publication is not None:
            write_down(outcome.publication, record, run=str(outcome.run))
        if isinstance(screen, JsonDisplay):
            for note in outcome.notes:
                screen.note(note)
            screen.finished(str(outcome.run))
            return ""
    return told(outcome)


def shared(
    night: Callable[[RunDisplay, Progress], NightOutcome], record: Path | None, gpu_share: float | None
) -> Callable[[RunDisplay], NightOutcome]:
    """A night that leaves a live miner its share of the machine.

    Args:
        night: runs it, with a display and with where it tells its progress.
        record: directory of the miner's night; None where no miner is to be waited for.
        gpu_share: most of the GPU's memory that it takes; None for no bound.
    """

    def run(screen: RunDisplay) -> NightOutcome:
        if gpu_share is not None and (told := take_gpu_share(gpu_share)) is not None:
            screen.note(told)
        if record is None:
            return night(screen, screen)
        with sleep_until_signal() as sleep:
            # `nights/NAME` in the state directory.
            slow = slow_by(record.parent.parent / GAUGE)
            return night(screen, Pause(screen, slow, tell=screen.note, sleep=sleep))

    return run


def write_down(publication: Publication, record: Path, *, run: str = "") -> None:
    """Record what a night published, whether or not anybody waits for it.

    Args:
        publication: what became of the challenger.
        record: directory of the miner's night.
        run: directory of the run; empty while that is not finished.
    """
    NightVerdict(
        at=utc_now(),
        bundle=publication.bundle,
        verdict=publication.verdict,
        reasons=publication.reasons,
        notes=publication.notes,
        run=run,
    ).write(record / VERDICT)


def told_early(publication: Publication, record: Path | None, screen: RunDisplay) -> None:
    """Say what became of a challenger while what only reports is still to run.

    Args:
        publication: what became of it.
        record: directory of the miner's night; None for nowhere.
        screen: shows it.
    """
    if record is not None:
        write_down(publication, record)
    screen.note(f"published: {publication.bundle} {publication.verdict}")


def planned(data: Path, workspace: Path, store: Path, config: RunConfig, choice: Choice) -> str:
    """What a night would do, in words: a line a stage and one for all; see `offline.night.plan_night`."""
    notes: list[str] = []
    found = plan_night(data, workspace=workspace, store=store, config=config, choice=choice, on_note=notes.append)
    return "\n".join([*notes, plan_words(found)])


def _beside(found: Comparison) -> str:
    """A comparison in one line."""
    parts = [
        f"{loss.of} {loss.estimate:+.3f} (at least {loss.lower:+.3f})" for loss in found.losses if loss.of in SHOWN
    ]
    ours, theirs = found.rewards
    return (
        f"beside {found.against}, on {found.rows} test rows of {found.groups} groups: {', '.join(parts)}; simulated "
        f"reward of Stage-1 alone {ours:.3f} and {theirs:.3f}"
    )


def told(outcome: NightOutcome) -> str:
    """A night in words: notes and comparisons first, and what matters in ten lines at the end.

    Where an unfinished night was finished first, it is told first.
    """
    first = [] if outcome.first is None else ["The unfinished night:", told(outcome.first), "", "The night after it:"]
    publication, params = outcome.publication, outcome.params
    if publication is None or params is None:
        return "\n".join([*first, *outcome.notes, f"{outcome.last} is done; its files are in {outcome.run}"])
    compared = outcome.run / COMPARISON
    gained = gain_lines(TrainingComparison.read(compared)) if compared.exists() else []
    return "\n".join(
        [
            *first,
            *publication.notes,
            *outcome.notes,
            *(_beside(found) for found in publication.compared),
            *(f"on the test rows, {line}" for line in gained),
            "",
            *summary(outcome, publication, params),
        ]
    )


def summary(outcome: NightOutcome, publication: Publication, params: ScrcParams) -> list[str]:
    """What came of a night in ten lines, each a name and a value; plain text, so a log shows it as a terminal does.

    Args:
        outcome: of the night.
        publication: what became of the challenger.
        params: its policy.
    """
    kept = "is refused and removed" if publication.verdict == "REFUSE" else "stays a challenger"
    ran = sum(seconds for _, seconds in outcome.times)
    longest = sorted(outcome.times, key=lambda one: -one[1])[:SHOWN_STAGES]
    stands = "is current now" if outcome.current else kept
    certificate = params.statement if params.rule is not None else params.reason
    took = ", ".join(f"{name} {duration_words(seconds)}" for name, seconds in longest)
    lines = {
        "verdict": f"{publication.verdict}: bundle {publication.bundle} {stands}",
        "why": "; ".join(publication.reasons) or "nothing speaks against it",
        "champion before": publication.champion or "none",
        "certificate": f"{params.status}: {certificate}",
        "looks left": look_words(params),
        "exit coverage": f"{_coverage(outcome.before)} before, {_coverage(params)} now, each on its own val_calib",
        "Stage-1 alone": _alone(publication),
        "disk": "not looked at" if outcome.disk is None else str(outcome.disk),
        "time": f"{duration_words(ran)}, of which {took}" if took else "nothing ran",
        "report": str(outcome.run / PAGE),
    }
    return [f"{name:<{WIDEST}}  {value}" for name, value in lines.items()]


def _coverage(params: ScrcParams | None) -> str:
    """The share that a bundle lets exit, as its certificate counted it."""
    if params is None or params.exit_coverage is None or not params.exit_coverage.trials:
        return "nothing exits" if params is not None and params.rule is None else "not known"
    return f"{params.exit_coverage.events / params.exit_coverage.trials:.1%}"


def _alone(publication: Publication) -> str:
    if publication.mcc is None:
        return "not judged"
    reward = "" if publication.reward is None else f", simulated reward {publication.reward:.3f}"
    return f"MCC {publication.mcc:.3f}{reward}, on {publication.test_rows} test rows"
