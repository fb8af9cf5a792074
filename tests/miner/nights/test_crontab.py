"""When a job is due: weekdays as crontab counts them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from miner.nights.crontab import checked_crontab, crontab_trigger

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


def due(text: str) -> list[str]:
    """Days of the week from Monday on which it is due."""
    trigger = crontab_trigger(text)
    days = [MONDAY + timedelta(days=number) for number in range(7)]
    return [f"{day:%a}" for day in days if trigger.get_next_fire_time(None, day) < day + timedelta(days=1)]


NO_CRONTABS = ["30 3 * *", "30 3 * * 8", "61 3 * * *", "a b c d e", "30 3 * * *-2", "", "30 3 1 * 1"]


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("7/2", "Tue Thu Sat Sun"),
        ("1", "Mon"),
        ("sun", "Sun"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Fri Sat Sun"),
        ("6-0", "Sat Sun"),
        ("0-2", "Mon Tue Sun"),
        ("MON,3", "Mon Wed"),
        ("*/2", "Tue Thu Sat Sun"),
        ("1-6/2", "Mon Wed Fri"),
        ("*", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_a_weekday_is_the_one_that_crontab_means(weekday: str, days: str) -> None:
    assert due(f"30 3 * * {weekday}") == days.split()


@pytest.mark.parametrize(
    "text", ["@reboot", "30 3 * *", "30 3 * * 8", "61 3 * * *", "a b c d e", "30 3 * * *-2", "", "30 3 1 * 1"]
)
def test_what_is_no_crontab_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"crontab|weekday"):
        crontab_trigger(text)


@pytest.mark.parametrize(("name", "text"), [("@daily", "0 0 * * *"), ("@weekly", "0 0 * * 0")])
def test_a_name_is_what_crontab_means_by_it(name: str, text: str) -> None:
    named, plain = (crontab_trigger(one).get_next_fire_time(None, MONDAY) for one in (name, text))
    assert named == plain
    assert checked_crontab(name) == name


def test_a_day_that_never_comes_is_refused() -> None:
    """The job would never run, and nobody would be told."""
    with pytest.raises(ValueError, match="never comes"):
        checked_crontab("0 3 30 2 *")
    assert checked_crontab("0 3 29 2 *") == "0 3 29 2 *"
