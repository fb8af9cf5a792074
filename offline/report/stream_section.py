"""The section of a report on the ways in which validators sent pictures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from offline.evaluation.stream_cells import CellReport
from offline.report.rate_cell import rate_cell
from stage1.certificate.params import ScrcParams
from stage1.certificate.statistics.percent import confidence
from stage1.certificate.stream import stream_in_words


def stream_section(cells: Sequence[CellReport], params: ScrcParams) -> str:
    """Misses, exits and false alarms in each era and at each level, as HTML.

    Args:
        cells: what was counted; nothing is counted where nothing exits.
        params: the certificate.
    """
    words = escape(stream_in_words(params.stream, params.stream_weights))
    told = f"<h2>As validators send pictures</h2><p>The certificate is for {words}.</p>"
    if not cells:
        return f"{told}<p>No row was sent in each way by itself.</p>"
    heads = ("", "images", "miss rate on exits (D2)", "exit coverage", "false alarms")
    rows = "".join(
        f"<tr><td>{escape(found.cell)}</td><td>{found.rows}</td><td>{rate_cell(found.misses)}</td>"
        f"<td>{rate_cell(found.exits, lower=True)}</td><td>{rate_cell(found.false_alarms)}</td></tr>"
        for found in cells
    )
    return (
        f'{told}<div class="scroll"><table><thead><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div><p><small>The same test rows, all sent in one way: an era, and the level "
        f"of its distortions. One-sided {confidence(params.delta)} Clopper-Pearson bounds, counted on one image a "
        f"{params.unit}, each by itself. Only the stream as a whole is certified, and no level of it.</small></p>"
    )
