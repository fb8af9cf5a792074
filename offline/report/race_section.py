"""The part of the report that says which recipes raced, and which labels a person should look at."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from offline.learning.race.outcome import Entrant, Gain, RaceRecord, Suspect
from offline.report.thumbnails import embedded
from stage1.certificate.statistics.percent import confidence

# So many pictures of suspects are shown; the table beside the report has all.
SHOWN = 24


def race_section(found: RaceRecord | None, thumbnails: Mapping[str, bytes]) -> str:
    """Recipes with intervals and cost, then suspects with their pictures, as HTML; nothing where nothing was held out.

    Args:
        found: outcome of the race; None for none.
        thumbnails: small JPEGs of suspects, by id of the row; those without one are only named.
    """
    if found is None:
        return ""
    return f"{_race(found)}{_suspects(found, thumbnails)}"


def _race(found: RaceRecord) -> str:
    if not found.entrants:
        return ""
    rows = "".join(_entrant(one, found) for one in found.entrants)
    last = "" if found.last_winner is None else f" The current bundle was trained by {escape(found.last_winner)}."
    left = f" {found.unstarted} more were not among the starters." if found.unstarted else ""
    return f"""<h2>Which recipe won</h2>
<p>{_verdict(found)}{last}{left}</p>
<div class="scroll"><table><thead><tr><th>recipe</th><th>rung</th><th>exits</th><th>log-loss</th>
<th>exits over the simplest</th><th>cost</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>
<p><small>Each recipe was trained on all but two of {found.folds} folds of {found.rows} rows in {found.groups} groups of
train and val_select: one fold chose the checkpoint and the other was held out; val_calib and test were not seen. Exits:
share of the held-out rows that exit, the mean over miss rates of 1 to 10 %. Numbers are those of the last rung that a
recipe reached, and compare within a rung only. Brackets: paired group bootstrap at the level that Holm's procedure
gives each finalist, so that all hold together; it knows of other rows, and not of other seeds of training. Cost: whole
trainings of one fold. The budget was {escape(found.budget)}. What ships is trained on train alone.</small></p>
"""


def _verdict(found: RaceRecord) -> str:
    finalists = [one for one in found.entrants if one.gain is not None]
    winner, simplest = escape(found.winner), escape(found.simplest)
    if not finalists:
        return f"<b>{simplest}</b> ships: the budget paid for no rival of it."
    if found.winner == found.simplest:
        return f"<b>{simplest}</b>, the simplest recipe, ships: no clear gain of any of {len(finalists)} finalists."
    return f"<b>{winner}</b> ships: it lets more rows exit than {simplest}, the simplest recipe, beyond doubt."


def _entrant(one: Entrant, found: RaceRecord) -> str:
    reached = [rung for rung in one.rungs if rung.exits is not None and rung.log_loss is not None]
    cells = ["", "", ""]
    if reached:
        last = reached[-1]
        cells = [str(last.rung), f"{last.exits:.1%}", f"{last.log_loss:.4f}"]
    said = "ships" if one.name == found.winner else _said(one, found)
    cost = f"{one.trainings:g}<small>{one.seconds / 60:.1f} min</small>"
    first = ' class="first"' if one.name == found.winner else ""
    middle = "".join(f"<td>{cell}</td>" for cell in cells)
    return (
        f"<tr{first}><td>{escape(one.name)}</td>{middle}<td>{_gain(one.gain)}</td><td>{cost}</td>"
        f'<td class="why">{escape(said)}</td></tr>'
    )


def _said(one: Entrant, found: RaceRecord) -> str:
    if one.dropped:
        return one.dropped
    if one.name == found.simplest:
        return "the simplest recipe"
    if one.gain is not None and one.gain.better:
        return "better than the simplest recipe, by less than the winner"
    return "not clearly better than the simplest recipe"


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return ""
    return f"{gain.exits:+.1%}<small>[{gain.lower:+.1%}, {gain.upper:+.1%}] at {confidence(1 - gain.level)}</small>"


def _suspects(found: RaceRecord, thumbnails: Mapping[str, bytes]) -> str:
    if not found.reviewed:
        return ""
    if not found.suspects:
        return f"<h2>Labels to look at</h2><p>No label of {found.reviewed} rows is clearly contradicted.</p>"
    figures = "".join(_figure(one, thumbnails.get(one.row)) for one in found.suspects[:SHOWN])
    return f"""<h2>Labels to look at</h2>
<p>{len(found.suspects)} of {found.reviewed} rows of train and val_select contradict models that did not train on them
most. A person decides: suspects.csv lists them all, with a column for the right label. Nothing was dropped.</p>
<div class="mistakes">{figures}</div>
"""


def _figure(one: Suspect, picture: bytes | None) -> str:
    truth = "roadwork" if one.label else "no roadwork"
    return (
        f"<figure>{embedded(picture)}<figcaption>labelled {truth}, held-out probability of roadwork "
        f"{one.probability:.3f}<br>{escape(one.row)}</figcaption></figure>"
    )
