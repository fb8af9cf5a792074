"""What the report says of the gate, which judges a bundle when the bundle's own page is already sealed into it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

NOT_JUDGED = """<h2>Gate</h2>
<p>The gate judges a bundle that holds this page already. What it says stands in <code>publish.json</code> and in the
report in the directory of the run.</p>"""
MEANINGS = {
    "PROMOTE": "it may take the place of the current bundle",
    "KEEP": "it stays a challenger",
    "REFUSE": "it is not to be served",
}


def with_verdict(
    page: str,
    outcome: str,
    *,
    bundle: str,
    champion: str | None,
    reasons: Sequence[str],
    notes: Sequence[str],
    night: str = "",
) -> str:
    """A report with the verdict of the gate, in the place that was left for it.

    Args:
        page: the report as it is in the bundle.
        outcome: PROMOTE, KEEP or REFUSE.
        bundle: id of the bundle that was judged.
        champion: id of the bundle that was current then, None if there was none.
        reasons: why it is not promoted.
        notes: what else there is to know.
        night: what is said of the night before that, as HTML (see `offline.report.night_section`).

    Raises:
        ValueError: the page has no such place.
    """
    before, place, after = page.partition(NOT_JUDGED)
    if not place:
        raise ValueError("the page has no place for the verdict of the gate")
    beside = "no bundle" if champion is None else "it" if champion == bundle else champion
    return f"""{before}{night}<h2>Gate: <span class="status {outcome}">{outcome}</span></h2>
<p>Bundle {escape(bundle)}: {MEANINGS[outcome]}. When it was judged, {escape(beside)} was current.</p>
{_listed("Reasons", reasons)}{_listed("Notes", notes)}{after}"""


def _listed(name: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<p>{name}:</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
