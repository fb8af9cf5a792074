"""The part of the report that says what each step of the training gained."""

from __future__ import annotations

from html import escape

from offline.evaluation.training_comparison import Gain, Spread, TrainingComparison, Variant, VariantName

NAMES: dict[VariantName, str] = {
    "baseline": "baseline: a head on the backbone as it came, softmax thresholds",
    "unadapted": "without domain adaptation",
    "supervised": "supervised training",
    "cross_entropy": "supervised, then the same steps by cross-entropy",
    "final": "this model",
}

NOT_COMPARED = """<h2>What the training gained</h2>
<p>What it is compared with is trained after the bundle is published. It stands in <code>comparison.json</code> and in
the report in the directory of the run.</p>"""
UNDECIDED = "no difference seen"
DECIDED = frozenset({"better", "worse"})


def with_comparison(page: str, found: TrainingComparison) -> str:
    """A report with the comparison of trainings, in the place that was left for it.

    Args:
        page: the report as it is in the bundle, or with the verdict of the gate.
        found: the comparison.

    Raises:
        ValueError: the page has no such place.
    """
    before, place, after = page.partition(NOT_COMPARED)
    if not place:
        raise ValueError("the page has no place for the comparison of trainings")
    return f"{before}{comparison_section(found)}{after}"


def comparison_section(found: TrainingComparison) -> str:
    """A table of the variants and one of the gains, as HTML."""
    variants = "".join(_variant(variant) for variant in found.variants)
    gains = "".join(_gain(gain) for gain in found.gains)
    risks = "".join(f"<th>exits at {at.risk:.3g} missed</th>" for at in found.variants[0].exits)
    gained = (
        f"""<div class="scroll"><table><thead><tr><th>this model minus</th>{risks}<th>certified here</th>
<th>accuracy</th><th>MCC</th><th>AUGRC, lower is better</th><th></th></tr></thead>
<tbody>{gains}</tbody></table></div>"""
        if gains
        else ""
    )
    return f"""<h2>What the training gained</h2>
<div class="scroll"><table><thead><tr><th></th>{risks}<th>certified here</th><th>accuracy</th><th>MCC</th><th>AUGRC</th>
<th>exit coverage</th><th>miss rate on exits</th></tr></thead><tbody>{variants}</tbody></table></div>
<p><small>On the test rows, torch at the precision of the training, answers by a probability that is calibrated on
val_select. Exits at a risk: what exits at that miss rate among the roadwork that exits, every model by its own
thresholds, found on these rows. Certified here: what exits by a rule that val_select chooses and the labels of these
rows are enough to prove; it serves nothing. The last two columns: the rule that val_select would choose, of the
baseline its fixed softmax thresholds. Brackets: 95% group bootstrap, in the second table with the same draws for both.
Exits at the risk that is to be certified decide which is better.</small></p>
{gained}
"""


def gain_lines(found: TrainingComparison) -> list[str]:
    """What the training gained in exits at equal risk, one line a simpler way, for the terminal."""
    lines = []
    for gain in found.gains:
        said, exits, proved = verdict(gain), gain.deciding, gain.certified
        numbers = (
            f"exits at a miss rate of {gain.alpha:.3g} {exits.value:+.3f} [{exits.lower:+.3f}, {exits.upper:+.3f}], "
            f"certified on the test rows {proved.value:+.3f} [{proved.lower:+.3f}, {proved.upper:+.3f}]"
        )
        lines.append(f"{said} {'than' if said in DECIDED else 'to'} {NAMES[gain.over]}: {numbers}")
    return lines


def verdict(gain: Gain) -> str:
    """What may be said of the difference: what the intervals of exits and of certified coverage leave open, is not."""
    exits, proved = gain.deciding, gain.certified
    if exits.lower > 0:
        return UNDECIDED if proved.upper < 0 else "better"
    if exits.upper < 0:
        return UNDECIDED if proved.lower > 0 else "worse"
    return UNDECIDED


def _variant(variant: Variant) -> str:
    missed = "none exits" if variant.miss_rate is None else f"{variant.miss_rate:.1%}"
    cells = [
        *(_cell(at.exits, percent=True) for at in variant.exits),
        f"{variant.certified:.1%}",
        _cell(variant.accuracy, percent=True),
        _cell(variant.mcc),
        _cell(variant.augrc, digits=4),
        f"{variant.exit_coverage:.1%}",
        missed,
    ]
    first = ' class="first"' if variant.name == "final" else ""
    return f"<tr{first}><td>{escape(NAMES[variant.name])}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _gain(gain: Gain) -> str:
    cells = [
        *(_cell(at.exits, percent=True, sign=True) for at in gain.exits),
        _cell(gain.certified, percent=True, sign=True),
        _cell(gain.accuracy, percent=True, sign=True),
        _cell(gain.mcc, sign=True),
        _cell(gain.augrc, digits=4, sign=True),
    ]
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><td>{escape(NAMES[gain.over])}</td>{shown}<td>{verdict(gain)}</td></tr>"


def _cell(spread: Spread, *, percent: bool = False, digits: int = 3, sign: bool = False) -> str:
    shape = f"{'+' if sign else ''}.{'1%' if percent else f'{digits}f'}"
    low, value, high = (format(number, shape) for number in (spread.lower, spread.value, spread.upper))
    return f"{value}<small>[{low}, {high}]</small>"
