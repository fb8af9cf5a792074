"""Who gave an answer, by the miner's journal, and why there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from miner.answering.record import RequestRecord
from miner.simulation.endings import Ending, ending_of, is_right, joined
from miner.simulation.exchange import Exchange, target_of
from stage1.decisions import Action
from stage1.errors import SettingsError
from stage2_bridge.client import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(answer: float = 0.9, sha256: str = "a", hotkey: str = "us", **more: Any) -> RequestRecord:
    known: dict[str, Any] = {"request_id": "r", "at": NOW, "result": "answered", "total_ms": 1.0}
    return RequestRecord(answer=answer, image_sha256=sha256, hotkey=hotkey, **(known | more))


def asked(prediction: float | None = 0.9, **more: Any) -> Exchange:
    known: dict[str, Any] = {"sha256": "a", "replied": True, "status": 200}
    return Exchange("0", "a.jpg", 1, "g", prediction=prediction, **(known | more))


@pytest.mark.parametrize(
    ("exchange", "noted", "ending"),
    [
        (asked(), record(action=Action.EXIT), Ending.STAGE1),
        (asked(), record(action=Action.DEFER, stage2=Outcome.ANSWERED), Ending.STAGE2),
        (asked(), record(action=Action.DEFER, stage2=Outcome.ABSENT), Ending.NO_STAGE2),
        (asked(), record(action=Action.DEFER, stage2=Outcome.TIMEOUT), Ending.DEGRADED),
        (asked(), record(action=Action.DEFER, stage2=Outcome.BUSY), Ending.DEGRADED),
        (asked(), record(action=Action.DEFER, stage2=Outcome.ERROR), Ending.DEGRADED),
        (asked(0.5), record(0.5, result="stage1_late"), Ending.DEGRADED),
        (asked(0.5), record(0.5, result="stage1_failed"), Ending.DEGRADED),
        (asked(), None, Ending.UNKNOWN),
        (asked(-1.0), None, Ending.REFUSED),
        (asked(-1.0, status=429), None, Ending.REFUSED),
        (asked(-1.0, status=408), None, Ending.LATE),
        (asked(-1.0, status=408, replied=False), None, Ending.LATE),
        (asked(-1.0, status=503, replied=False), None, Ending.LATE),
        (asked(None, status=0, replied=False), None, Ending.LATE),
        (asked(1.5), None, Ending.INVALID),
        (asked(float("nan")), None, Ending.INVALID),
    ],
)
def test_a_request_ends_in_one_way(exchange: Exchange, noted: RequestRecord | None, ending: Ending) -> None:
    assert ending_of(exchange, noted) is ending


@pytest.mark.parametrize(("prediction", "right"), [(0.9, True), (0.5, False), (1.25, False), (-1.0, False)])
def test_an_answer_is_right_if_it_is_a_probability_that_rounds_to_the_label(prediction: float, right: bool) -> None:
    assert is_right(asked(prediction)) is right


def test_records_are_joined_by_picture_answer_and_validator() -> None:
    ours, other = record(request_id="ours"), record(request_id="other", hotkey="them")
    unseen = record(0.5, "", request_id="late", result="stage1_late")
    exchanges = [asked(0.5, sha256="b"), asked(), asked(), asked(-1.0)]
    found = joined(exchanges, [other, ours, unseen], "us")
    assert [one and one.request_id for one in found] == ["late", "ours", None, None]


def test_the_same_picture_twice_is_two_records_in_their_order() -> None:
    first, second = record(request_id="1"), record(request_id="2")
    found = joined([asked(), asked()], [first, second], "us")
    assert [one and one.request_id for one in found] == ["1", "2"]


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://127.0.0.1:8092", "127.0.0.1", 8092),
        ("miner.example:80/", "miner.example", 80),
        ("127.0.0.1", "127.0.0.1", 8091),
        ("http://[::1]:9000", "[::1]", 9000),
    ],
)
def test_a_miner_is_named_as_validators_read_it_from_the_chain(url: str, host: str, port: int) -> None:
    target = target_of(url, "5F")
    assert (target.host, target.port, target.hotkey) == (host, port, "5F")


@pytest.mark.parametrize(
    "url", ["https://a:1", "http://a:1/ImageSynapse", "http://a:port", "http://", "http://a:99999"]
)
def test_what_is_no_miner_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="--miner"):
        target_of(url, "5F")
