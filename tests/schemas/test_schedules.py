"""Schedules as pure functions."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.schemas.desired import Schedule
from mycelial.schemas.schedule import cron_schedule, describe_schedule, next_fire, parse_schedule


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def _fires(expression: str, zone: str, after: str, count: int) -> list[str]:
    schedule, now, found = cron_schedule(expression, zone), _at(after), []
    for _ in range(count):
        fire = next_fire(schedule, after=now, start=0)
        assert fire is not None
        now = fire
        found.append(datetime.fromtimestamp(now, ZoneInfo(zone)).isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("expression", "fires"),
    [
        pytest.param("0 0 * * 0", ["2026-01-04", "2026-01-11"], id="0 is Sunday"),
        pytest.param("0 0 * * 7", ["2026-01-04", "2026-01-11"], id="7 is Sunday"),
        pytest.param("0 0 * * 1-5", ["2026-01-01", "2026-01-02", "2026-01-05"], id="weekdays"),
        pytest.param("0 0 * * 5-7", ["2026-01-02", "2026-01-03", "2026-01-04"], id="over the week"),
        pytest.param("0 0 * * mon,FRI", ["2026-01-02", "2026-01-05"], id="names"),
        pytest.param("0 0 13 * 5", ["2026-01-02", "2026-01-09", "2026-01-13"], id="either day"),
        pytest.param("0 0 */10 * 5", ["2026-05-01", "2026-07-31"], id="star step restricts"),
        pytest.param("0 0 29 2 *", ["2028-02-29", "2032-02-29"], id="leap day"),
        pytest.param("@monthly", ["2026-01-01", "2026-02-01"], id="macro"),
        pytest.param("0 0 1 jan-feb *", ["2026-01-01", "2026-02-01"], id="month names"),
    ],
)
def test_cron_means_what_crontab_means(expression: str, fires: list[str]) -> None:
    found = _fires(expression, "UTC", "2025-12-31T23:59", len(fires))
    assert [text[:10] for text in found] == fires


@pytest.mark.parametrize(
    ("expression", "after", "fires"),
    [
        pytest.param(
            "30 2 * * *",
            "2026-03-28T12:00",
            ["2026-03-29T03:30+02:00", "2026-03-30T02:30+02:00"],
            id="skipped in spring",
        ),
        pytest.param(
            "30 2 * * *",
            "2026-10-24T12:00",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
            id="once in autumn",
        ),
        pytest.param(
            "30 * * * *",
            "2026-10-24T23:45",
            ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00", "2026-10-25T03:30+01:00"],
            id="every hour, also the repeated one",
        ),
    ],
)
def test_daylight_saving_neither_loses_nor_doubles_a_run(
    expression: str, after: str, fires: list[str]
) -> None:
    assert _fires(expression, "Europe/Berlin", after, len(fires)) == fires


@pytest.mark.parametrize(
    ("expression", "zone", "message"),
    [
        pytest.param("* * * *", "UTC", "5 fields", id="too few"),
        pytest.param("* * * * * *", "UTC", "5 fields", id="too many"),
        pytest.param("60 * * * *", "UTC", "minute", id="minute"),
        pytest.param("* * * * 8", "UTC", "weekday", id="weekday"),
        pytest.param("*/0 * * * *", "UTC", "nothing", id="step zero"),
        pytest.param("5-1 * * * *", "UTC", "nothing", id="backwards"),
        pytest.param("* * * * ?", "UTC", "not valid", id="question mark"),
        pytest.param("0 0 31 2 *", "UTC", "day 31", id="never"),
        pytest.param("* * * * *", "Mars/X", "time zone", id="zone"),
        pytest.param("* * * * *", "../etc/passwd", "time zone", id="path as zone"),
    ],
)
def test_wrong_timetables_say_why(expression: str, zone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cron_schedule(expression, zone)


@pytest.mark.parametrize(
    ("schedule", "after", "fire"),
    [
        pytest.param(Schedule("once"), 99.0, 100.0, id="once before"),
        pytest.param(Schedule("once"), 100.0, None, id="once after"),
        pytest.param(Schedule("onChange"), 0.0, 100.0, id="onChange at start"),
        pytest.param(Schedule("onChange"), 100.0, None, id="onChange later"),
        pytest.param(Schedule("continuous", poll_seconds=0.5), 200.0, 200.5, id="continuous"),
        pytest.param(Schedule("every", every_seconds=30.0), 0.0, 100.0, id="every at start"),
        pytest.param(Schedule("every", every_seconds=30.0), 100.0, 130.0, id="every next"),
        pytest.param(Schedule("every", every_seconds=30.0), 171.0, 190.0, id="every skips missed"),
    ],
)
def test_next_fire(schedule: Schedule, after: float, fire: float | None) -> None:
    assert next_fire(schedule, after=after, start=100.0) == fire


@given(
    st.sampled_from(["*/7 * * * *", "0 3 * * 1", "15 2 1,15 * *", "@hourly"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.floats(0, 4_000_000_000),
)
def test_cron_fires_strictly_later_and_never_skips_an_earlier_fire(
    expression: str, zone: str, after: float
) -> None:
    schedule = cron_schedule(expression, zone)
    fire = next_fire(schedule, after=after, start=0)
    assert fire is not None
    assert fire > after
    between = (after + fire) / 2
    if between < fire:
        assert next_fire(schedule, after=max(after, between), start=0) == fire


@given(st.floats(0.1, 1e6), st.floats(0, 4e9), st.floats(0, 4e9))
def test_every_fires_strictly_later_and_within_one_period(
    period: float, start: float, after: float
) -> None:
    fire = next_fire(Schedule("every", every_seconds=period), after=after, start=start)
    assert fire is not None
    assert fire > after
    assert fire == start or fire - after <= period * 1.001 + 1e-3


@pytest.mark.parametrize(
    "text", ["once", "continuous", "onChange", "every 1m30s", "every 500ms", "every 1d2h"]
)
def test_description_is_what_people_write(text: str) -> None:
    assert describe_schedule(parse_schedule(text)) == text


def test_other_descriptions() -> None:
    assert describe_schedule(Schedule("continuous", poll_seconds=0.2)) == "continuous, poll 200ms"
    cron = cron_schedule("*/5 * * * *", "Europe/Lisbon")
    assert describe_schedule(cron) == "cron */5 * * * * (Europe/Lisbon)"
