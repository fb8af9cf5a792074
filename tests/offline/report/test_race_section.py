"""What the report says of a race."""

from __future__ import annotations

from offline.learning.race.outcome import Entrant, Gain, RaceRecord, RungResult, Suspect
from offline.report.race_section import SHOWN, race_section


def gain(exits: float, *, better: bool) -> Gain:
    return Gain(exits=exits, lower=exits - 0.02, upper=exits + 0.02, p_value=0.001, level=0.975, better=better)


def record(**changes: object) -> RaceRecord:
    rungs = (RungResult(rung=1, exits=0.3, log_loss=0.5), RungResult(rung=2, exits=0.41, log_loss=0.4321))
    found = RaceRecord(
        recipe="auto",
        winner="doran <new>",
        simplest="lora",
        last_winner="lora",
        rows=900,
        groups=300,
        folds=5,
        budget="120 minutes",
        entrants=(
            Entrant(name="lora", overrides={}, rungs=rungs, trainings=7.0, seconds=600),
            Entrant(name="doran <new>", overrides={}, rungs=rungs, gain=gain(0.05, better=True)),
            Entrant(name="dora", overrides={}, rungs=rungs, gain=gain(0.01, better=False)),
            Entrant(name="lion", overrides={}, rungs=(RungResult(rung=1),), dropped="the loss is not finite"),
        ),
        reviewed=900,
        suspects=tuple(Suspect(row=f"{n}.jpg", label=1, probability=0.01, loss=4.6) for n in range(SHOWN + 3)),
    )
    return found.model_copy(update=changes)


def test_every_recipe_is_shown_with_its_interval_its_cost_and_why_it_was_dropped() -> None:
    page = race_section(record(), {"0.jpg": b"jpeg"})
    assert "doran &lt;new&gt;</b> ships" in page
    assert "+5.0%<small>[+3.0%, +7.0%] at 97.5%</small>" in page
    assert "7<small>10.0 min</small>" in page
    assert "the loss is not finite" in page
    assert "0.4321" in page
    assert "not clearly better than the simplest recipe" in page
    assert "120 minutes" in page


def test_the_simplest_ships_where_nothing_beats_it_or_nothing_raced() -> None:
    assert "no clear gain of any of 2 finalists" in race_section(record(winner="lora"), {})
    alone = record(winner="lora", entrants=record().entrants[:1])
    assert "the budget paid for no rival" in race_section(alone, {})


def test_suspects_are_shown_up_to_a_number_and_all_are_counted() -> None:
    page = race_section(record(), {"0.jpg": b"jpeg"})
    assert page.count("<figure>") == SHOWN
    assert page.count("data:image/jpeg") == 1
    assert f"{SHOWN + 3} of 900 rows" in page
    assert "No label of 900 rows" in race_section(record(suspects=()), {})


def test_a_fixed_recipe_says_nothing() -> None:
    assert race_section(RaceRecord(recipe="fixed"), {}) == ""
    assert race_section(None, {}) == ""
