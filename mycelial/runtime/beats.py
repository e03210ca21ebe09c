"""When to read again. Pure: `now` comes in, the next instant goes out. Unit: Unix seconds."""

from __future__ import annotations

import math
from collections.abc import Callable

from mycelial.schemas.desired import Schedule

NextFire = Callable[[Schedule, float], float | None]
ON_CHANGE = math.inf  # not by the clock: something else says when


def first_beat(schedule: Schedule, now: float, next_fire: NextFire) -> float | None:
    """Return when to read for the first time: at once, but for cron."""
    return next_fire(schedule, now) if schedule.kind == "cron" else now


def next_beat(
    schedule: Schedule, *, now: float, started_at: float, next_fire: NextFire
) -> float | None:
    """Return when to read next, after a beat that began at `started_at` and is over at `now`.

    `every` keeps its grid and skips beats it missed. None: never again.
    """
    match schedule.kind:
        case "once":
            return None
        case "continuous":
            return now + schedule.poll_seconds
        case "every":
            period = max(schedule.every_seconds or 0.0, 0.001)
            passed = math.floor(max(0.0, now - started_at) / period)
            due = started_at + period
            return due if passed < 1 else max(now, started_at + passed * period)
        case "cron":
            return next_fire(schedule, now)
        case "onChange":
            return ON_CHANGE
