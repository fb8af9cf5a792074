"""What the report says of the certificate: what was proved, which looks are left, and labels to look at again."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from offline.report.thumbnails import embedded
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.statements import GATE_ADDS_NOTHING
from stage1.certificate.statistics.binomial import power
from stage1.certificate.statistics.percent import at_least, at_most

SHOWN_RISKS = {
    Risk.MISS_EXIT: "miss rate on exits (D2)",
    Risk.MISS_ALL: "miss rate, all roadwork (D1)",
    Risk.FALSE_OMISSION: "roadwork among exits as 0 (D3)",
    Risk.ERROR_EXIT: "error on exits (D4)",
}


def certificate_section(params: ScrcParams) -> str:
    """What was proved on val_calib, with the counts, and a forecast of the looks that are left."""
    if params.rule is None:
        return f"<p>Nothing exits: every image is deferred to Stage-2 and still answered.</p>{_forecast(params)}"
    proofs = "".join(
        f"<tr><td>{escape(_claim(e.risk, e.subgroup))}</td>"
        f"<td>{f'&ge; {at_least(e.bound)}' if e.claim == 'coverage' else f'&le; {at_most(e.bound)}'}</td>"
        f"<td>{e.events} / {e.trials}</td><td>{e.p_value:.4f}</td><td>{e.level:.4f}</td></tr>"
        for e in params.evidence
    )
    return (
        '<div class="scroll"><table><thead><tr><th>proved on val_calib</th><th>bound</th><th>counts</th>'
        f"<th>p-value</th><th>tested at</th></tr></thead><tbody>{proofs}</tbody></table></div>"
        f"{_gate(params)}{_forecast(params)}"
    )


def _gate(params: ScrcParams) -> str:
    """What the gate asks, where it asks something that the thresholds know already."""
    return f"<p>{GATE_ADDS_NOTHING}</p>" if params.gate_score == "margin" else ""


def _claim(risk: Risk | None, subgroup: str) -> str:
    name = "exit coverage" if risk is None else SHOWN_RISKS.get(risk, str(risk))
    return f"{name}, {subgroup}" if subgroup else name


def _forecast(params: ScrcParams) -> str:
    """How many looks are left at this fold, and how likely the next one succeeds."""
    left, looked = params.budget.left, bool(params.evidence)
    if params.spending != "looks" or left is None:
        return ""
    left -= looked
    if left < 1:
        return "<p>No look is left at these calibration rows; the next certificate takes a fresh fold.</p>"
    main = next((e for e in params.evidence if e.risk is params.risk and not e.subgroup), None)
    exits = params.positives if main is None else main.trials
    rates = [share * params.alpha for share in (0.1, 0.25, 0.5)]
    chances = ", ".join(
        f"{power(exits, rate, params.alpha, params.spent):.2f} if it misses {at_most(rate)}" for rate in rates
    )
    return (
        f"<p>{left} {'look is' if left == 1 else 'looks are'} left at these calibration rows, each tested at "
        f"{params.spent:.4f}. With {exits} roadwork units that exit, a model is certified with probability {chances} "
        "of the roadwork on its exits.</p>"
    )


def second_look_section(pictures: Mapping[str, bytes]) -> str:
    """Pictures of val_calib whose labels a person should look at again, without what anybody said of them.

    Args:
        pictures: small JPEGs by the id of the row, in the order to be shown.
    """
    if not pictures:
        return ""
    figures = "".join(
        f"<figure>{embedded(picture)}<figcaption>{escape(row)}</figcaption></figure>"
        for row, picture in pictures.items()
    )
    return (
        "<h2>Look at these labels again</h2><p>A certificate is only as good as the labels of val_calib. Half of these "
        "pictures decided something, the others are drawn at random; neither the label nor the answer of the model is "
        "shown, so that they do not sway you. Write down what you see, then compare it with labels.csv. A corrected "
        'label makes other data, and the next certificate on it is one more look.</p><div class="mistakes">'
        f"{figures}</div>"
    )
