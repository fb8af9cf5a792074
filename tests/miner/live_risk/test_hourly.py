"""Counts of an hour: the scores that make its quantiles are a fair draw."""

from __future__ import annotations

from datetime import UTC, datetime

from miner.answering.record import RequestRecord
from miner.live_risk.hourly import MOST_SCORES, HourCounts

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_what_is_no_image_makes_no_score_less_likely() -> None:
    """Scores of the second half were drawn as if all that cannot be decoded had scores."""
    scored = RequestRecord(
        request_id="1", at=NOON, hotkey="5F", result="answered", answer=0.5, total_ms=1.0, roadwork_score=-1.0
    )
    undecodable = scored.model_copy(update={"result": "not_an_image", "roadwork_score": None})
    later = scored.model_copy(update={"roadwork_score": 1.0})
    hour = HourCounts(NOON, "0123456789abcdef")
    for records, number in ((scored, MOST_SCORES), (undecodable, 9 * MOST_SCORES), (later, MOST_SCORES)):
        for _ in range(number):
            hour.add(records)
    row = hour.row({})
    assert (row["score_p10"], row["score_p90"]) == (-1.0, 1.0)
