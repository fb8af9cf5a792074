"""When a job is due, as crontab counts: on weekdays 0 and 7 are Sunday, which APScheduler takes for Monday."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
ANY_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY = f"(?:[0-7]|{'|'.join(DAYS)})"
_PART = re.compile(rf"(?P<first>\*|{_DAY})(?:-(?P<last>{_DAY}))?(?:/(?P<step>[1-9]))?", re.IGNORECASE)


def crontab_trigger(text: str) -> CronTrigger:
    """The trigger of five crontab fields, or of a name for such, in UTC.

    Args:
        text: minute, hour, day of the month, month, weekday, or one of `NAMES`; as in `crontab(5)`.

    Raises:
        ValueError: they are not such fields, or name both a day of the month and a weekday, of which crontab takes
            either and others take both.
    """
    if text.startswith("@") and text not in NAMES:
        raise ValueError(f"{text!r} is no crontab, nor one of {', '.join(NAMES)}")
    fields = NAMES.get(text, text).split()
    if len(fields) != 5:
        raise ValueError(f"{text!r} has {len(fields)} fields; a crontab has minute, hour, day, month and weekday")
    *others, weekday = fields
    if not fields[2].startswith("*") and not weekday.startswith("*"):
        raise ValueError(f"{text!r} names a day of the month and a weekday; leave one of them *")
    try:
        return CronTrigger.from_crontab(" ".join([*others, _weekdays(weekday)]), timezone="UTC")
    except ValueError as error:
        raise ValueError(f"{text!r} is no crontab: {error}") from error


def checked_crontab(text: str) -> str:
    """The same text, if it is a crontab.

    Raises:
        ValueError: it is none, or names a day that never comes.
    """
    if crontab_trigger(text).get_next_fire_time(None, ANY_DAY) is None:
        raise ValueError(f"{text!r} names a day that never comes")
    return text


def missed(trigger: CronTrigger, last_success: datetime | None, now: datetime) -> bool:
    """True if a run was due after the last success and before now; False if there never was a success."""
    if last_success is None:
        return False
    due = trigger.get_next_fire_time(None, last_success + timedelta(seconds=1))
    return due is not None and due <= now


def _weekdays(field: str) -> str:
    if field == "*":
        return field
    days: set[int] = set()
    for part in field.split(","):
        found = _PART.fullmatch(part)
        if found is None or (found["first"] == "*" and found["last"]):
            raise ValueError(f"the weekday {part!r} is none of 0 to 7 or {DAYS[0]} to {DAYS[-1]}, nor a range of them")
        days |= {day % 7 for day in _range(found)}
    return ",".join(DAYS[day] for day in sorted(days))


def _range(found: re.Match[str]) -> range:
    step = int(found["step"] or 1)
    if found["first"] == "*":
        return range(0, 7, step)
    first = _number(found["first"]) % 7
    if found["last"] is None:
        # With a step it goes on to the end of the week.
        return range(first, 7 if found["step"] else first + 1, step)
    last = _number(found["last"])
    # From Saturday to Monday, and to a Sunday that is called 0.
    return range(first, (last if last >= first else last + 7) + 1, step)


def _number(day: str) -> int:
    return int(day) if day.isdigit() else DAYS.index(day.lower())
