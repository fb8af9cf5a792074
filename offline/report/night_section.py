"""What the report says of the night that wrote it: when, which run, how long its stages took, what it spent."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from offline.pipeline.stage_times import StageTime, duration_words


def night_section(
    *, at: str, run: str, bundle: str, champion: str | None, looks: str, times: Sequence[StageTime]
) -> str:
    """The section, as HTML.

    Args:
        at: when the bundle was published, UTC, ISO 8601.
        run: id of the run.
        bundle: id of the bundle.
        champion: id of the bundle that was current when it was judged, None if there was none.
        looks: how many looks are left; see `offline.certify.look_words`.
        times: of each stage that made this bundle, the last time that it ran.
    """
    facts = {
        "Date": _minute(at),
        "Run": run,
        "Bundle": bundle,
        "Champion before": champion or "none",
        "Looks left": looks,
    }
    rows = "".join(f"<tr><td>{name}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    took = "".join(
        f"<tr><td>{escape(time.stage)}</td><td>{duration_words(time.seconds)}</td><td>{escape(_minute(time.at))}</td></tr>"
        for time in times
    )
    return f"""<h2>This night</h2>
<div class="scroll"><table class="facts">{rows}</table></div>
<details><summary>How long the stages took when they last ran</summary>
<div class="scroll"><table><tr><th>stage</th><th>took</th><th>ended</th></tr>{took}</table></div></details>
"""


def _minute(at: str) -> str:
    return f"{at[:16].replace('T', ' ')} UTC"
