"""The part of the report that says of which night it is."""

from __future__ import annotations

from offline.pipeline.stage_times import StageTime
from offline.report.night_section import night_section

AT = "2026-12-01T03:18:58+00:00"


def test_times_are_to_the_minute_and_tables_scroll_by_themselves_on_a_phone() -> None:
    times = [StageTime(stage="export", key="a", resumed=False, seconds=382.0, at="2026-12-01T03:12:21+00:00")]
    page = night_section(at=AT, run="7ca547b2", bundle="3870f052", champion=None, looks="6 of 6", times=times)
    assert "<td>2026-12-01 03:18 UTC</td>" in page
    assert "<td>export</td><td>6 min</td><td>2026-12-01 03:12 UTC</td>" in page
    assert AT not in page
    assert page.count("<table") == page.count('<div class="scroll"><table') == 2
