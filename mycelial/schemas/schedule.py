"""When a pipeline reads next, as pure functions. The only importer of apscheduler.

Cron follows crontab(5): 0 and 7 are Sunday, and when both day fields are restricted, either may
match. apscheduler counts days from Monday and wants both to match, so the fields are translated.
In a zone with daylight saving, a time that the spring skips fires right after the gap; in the
hour that autumn repeats, only a timetable for every hour fires twice.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mycelial.schemas.desired import Schedule
from mycelial.schemas.units import parse_duration

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)
_EVERY_MIN = 0.1


def parse_schedule(text: str) -> Schedule:
    """Parse `once`, `continuous`, `onChange` or `every 30s`. Raises: ValueError."""
    if text == "once":
        return Schedule("once")
    if text == "continuous":
        return Schedule("continuous")
    if text == "onChange":
        return Schedule("onChange")
    if text.startswith("every "):
        seconds = parse_duration(text.removeprefix("every ").strip())
        if seconds < _EVERY_MIN:
            raise ValueError("the shortest interval is 100ms; use `continuous` to follow")
        return Schedule("every", every_seconds=seconds)
    raise ValueError(
        f"{text!r} is not a schedule; write once, continuous, onChange, every 30s, "
        'or {cron: "*/5 * * * *", timezone: Europe/Lisbon}'
    )


def cron_schedule(expression: str, timezone: str = "UTC") -> Schedule:
    """Return a checked cron schedule. Raises: ValueError naming the field that is wrong."""
    _triggers(expression, timezone)
    return Schedule("cron", cron=expression, timezone=timezone)


def next_fire(schedule: Schedule, *, after: float, start: float) -> float | None:
    """Return the first instant later than `after` at which a run begins, or None for never.

    All Unix seconds. `start` is when the pipeline was first started: once and onChange fire then,
    every counts from it, cron does not look at it. continuous fires `poll_seconds` later.
    """
    match schedule.kind:
        case "once" | "onChange":
            return start if after < start else None
        case "continuous":
            return start if after < start else after + schedule.poll_seconds
        case "every":
            return _next_beat(schedule.every_seconds or _EVERY_MIN, after, start)
        case "cron":
            return _next_cron(schedule.cron or "", schedule.timezone, after)


def describe_schedule(schedule: Schedule) -> str:
    """Return the schedule as people write it."""
    match schedule.kind:
        case "every":
            return f"every {_duration(schedule.every_seconds or 0)}"
        case "cron":
            return f"cron {schedule.cron} ({schedule.timezone})"
        case "continuous" if (
            schedule.poll_seconds != Schedule.__dataclass_fields__["poll_seconds"].default
        ):
            return f"continuous, poll {_duration(schedule.poll_seconds)}"
        case kind:
            return kind


def _next_beat(period: float, after: float, start: float) -> float:
    if after < start:
        return start
    beat = start + (math.floor((after - start) / period) + 1) * period
    return beat if beat > after else beat + period  # rounding of large floats


def _next_cron(expression: str, timezone: str, after: float) -> float | None:
    # apscheduler rounds up to the whole second and may answer with that second itself.
    moment = datetime.fromtimestamp(math.floor(after), UTC) + timedelta(seconds=1)
    fires = []
    every_hour = expression.split()[1:2] == ["*"] or expression.strip() == "@hourly"
    for trigger in _triggers(expression, timezone):
        fire = trigger.get_next_fire_time(None, moment.astimezone(trigger.timezone))
        while fire is not None and fire.fold and not every_hour:
            # By way of UTC: arithmetic on a repeated hour would lead back into its first pass.
            later = fire.astimezone(UTC) + timedelta(seconds=1)
            fire = trigger.get_next_fire_time(None, later.astimezone(trigger.timezone))
        if fire is not None:
            fires.append(fire.timestamp())
    return min(fires, default=None)


@lru_cache(maxsize=1024)
def _triggers(expression: str, timezone: str) -> tuple[Any, ...]:
    from apscheduler.triggers.cron import CronTrigger

    text = _MACROS.get(expression.strip(), expression)
    parts = text.split()
    if len(parts) != 5:
        raise ValueError(
            f"a cron expression has 5 fields (minute hour day month weekday), not {len(parts)}"
        )
    values = [
        _field(part, name, low, high)
        for part, (name, low, high) in zip(parts, _FIELDS, strict=True)
    ]
    minute, hour, day, month, weekday = values
    if not _can_fall(day, month) and weekday == "*":
        raise ValueError(f"no month of this cron expression has day {day}")
    zone = _zone(timezone)
    common = {"minute": minute, "hour": hour, "month": month, "timezone": zone}
    # crontab(5): a field that begins with a star does not count as restricted.
    if parts[2].startswith("*") or parts[4].startswith("*"):
        return (CronTrigger(day=day, day_of_week=weekday, **common),)
    return (CronTrigger(day=day, **common), CronTrigger(day_of_week=weekday, **common))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{name!r} is not a known time zone; write a name such as Europe/Lisbon"
        ) from error


def _field(text: str, name: str, low: int, high: int) -> str:
    """Expand one cron field to the list of its values, in apscheduler's terms."""
    values: set[int] = set()
    for item in text.split(","):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise ValueError(f"{item!r} is not valid in the {name} field of a cron expression")
        step = int(found[4] or 1)
        if found[1]:
            first, last = low, high if name != "weekday" else 6
        else:
            first = _number(found[2], name, low, high)
            last = _number(found[3], name, low, high) if found[3] else first
            if found[4] and not found[3]:
                last = high
        if step == 0 or last < first:
            raise ValueError(f"{item!r} selects nothing in the {name} field of a cron expression")
        values.update(range(first, last + 1, step))
    if name == "weekday":
        names = sorted({value % 7 for value in values})
        return "*" if len(names) == 7 else ",".join(_DAYS[value] for value in names)
    return "*" if len(values) == high - low + 1 else ",".join(map(str, sorted(values)))


def _number(text: str, name: str, low: int, high: int) -> int:
    word = text.lower()
    if name == "weekday" and word in _DAYS:
        return _DAYS.index(word)
    if name == "month" and word in _MONTHS:
        return _MONTHS.index(word) + 1
    if text.isdecimal() and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"{text!r} is not in {low}-{high}, the {name} field of a cron expression")


def _can_fall(day: str, month: str) -> bool:
    """Tell whether any chosen month is long enough for the first chosen day."""
    if day == "*":
        return True
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
    months = range(1, 13) if month == "*" else map(int, month.split(","))
    return any(int(day.split(",", maxsplit=1)[0]) <= longest.get(m, 31) for m in months)


def _duration(seconds: float) -> str:
    if seconds < 1 or seconds != int(seconds):
        return f"{seconds * 1000:g}ms"
    text, rest = "", int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= size:
            text += f"{rest // size}{unit}"
            rest %= size
    return text or "0s"
