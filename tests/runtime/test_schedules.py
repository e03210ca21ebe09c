"""When a pipeline reads, on a manual clock: every, cron, onChange, once, and rests between."""

from __future__ import annotations

import math

import pytest
from runner_rig import Rig
from scripted import Scripted, idle_positions

from mycelial.runtime import runner
from mycelial.runtime.engine import IDLE_COMMIT_SECONDS
from mycelial.runtime.ports import WorkerExit
from mycelial.runtime.runner import IDLE_CLOSE_SECONDS
from mycelial.schemas.desired import Schedule
from mycelial.sdk.envelope import FenceToken

HOUR = 3600.0


def every(seconds):
    return Schedule("every", every_seconds=seconds)


def on_the_hour(_schedule, after):
    return (math.floor(after / HOUR) + 1) * HOUR


@pytest.fixture
def watched(monkeypatch):
    """Who watches which file; the host of the rig says when it changes."""
    paths = []
    monkeypatch.setattr(runner, "start_watching", lambda path, _: paths.append(path))
    return paths


def test_every_reads_on_its_grid_and_finds_what_came_in_between(world):
    spec = world.spec(schedule=every(10.0))
    rig = Rig(world, spec, actions=[lambda: world.add([51]), None, lambda: world.add([52]), None])
    assert rig.run() is WorkerExit.DONE
    assert rig.host.waits == [10.0] * 5
    assert world.arrived() == world.made
    assert rig.voice.states == ["running", "stopped"]


def test_a_short_rest_keeps_the_ends_open_and_a_long_one_closes_them(world):
    for seconds, sessions, states in (
        (IDLE_CLOSE_SECONDS, 1, ["running", "stopped"]),
        (IDLE_CLOSE_SECONDS + 1, 3, ["running", "waiting", "running", "waiting", "running",
                                     "waiting", "stopped"]),
    ):  # fmt: skip
        source = Scripted({"0": lambda _: []})
        rig = Rig(world, world.spec(schedule=every(seconds)), actions=[None] * 2,
                  build=source.build)  # fmt: skip
        rig.run()
        assert (source.opened, rig.voice.states) == (sessions, states)


def test_a_beat_that_took_longer_than_its_period_skips_what_it_missed(world):
    takes = iter([25.0])
    begun = []

    def read(_resume):
        begun.append(rig.clock.monotonic())
        rig.clock.advance(next(takes, 0.0))
        return []

    source = Scripted({"0": read})
    rig = Rig(world, world.spec(schedule=every(10.0)), actions=[None], build=source.build)
    rig.run()
    assert begun == [0.0, 25.0, 35.0]  # those of 10 and 20 are over; one comes at once, not two


def test_cron_waits_for_its_hour_with_both_ends_closed(world):
    spec = world.spec(schedule=Schedule("cron", cron="0 * * * *"))
    rig = Rig(world, spec, actions=[None, lambda: world.add([51])], next_fire=on_the_hour)
    begin = rig.clock.now()
    first = on_the_hour(None, begin)
    rig.run()
    assert rig.host.waits == [first - begin, HOUR, HOUR]
    waiting = [status.next_run_at for status in rig.voice.statuses if status.state == "waiting"]
    assert waiting == [first, first + HOUR, first + 2 * HOUR]
    assert world.arrived() == world.made


def test_cron_reads_nothing_before_its_hour(world):
    spec = world.spec(schedule=Schedule("cron", cron="0 * * * *"))
    Rig(world, spec, next_fire=on_the_hour).run()
    assert sum(world.arrived().values()) == 0


def test_a_snapshot_that_was_broken_off_does_not_wait_for_the_next_hour(world):
    spec = world.spec(schedule=Schedule("cron", cron="0 * * * *"), source={"snapshot": True})
    first = Rig(world, spec, actions=[None], next_fire=on_the_hour, faults=StopAt(2))
    first.faults.host = first.host
    first.run()
    assert 0 < sum(world.arrived().values()) < 50
    again = Rig(world, spec, attempt=2, next_fire=on_the_hour)
    again.run()
    assert world.arrived() == world.made
    assert len(again.host.waits) == 1  # only after the run was complete


def test_a_schedule_without_another_instant_is_finished(world):
    spec = world.spec(schedule=Schedule("cron", cron="0 0 30 2 *"))
    rig = Rig(world, spec, next_fire=lambda *_: None)
    assert rig.run() is WorkerExit.DONE
    assert rig.voice.states[-1] == "finished"
    assert rig.host.waits == []


def test_on_change_reads_at_once_and_then_only_when_the_file_changes(world, watched):
    def change():
        world.add([51])
        rig.host.say_change()

    rig = Rig(world, world.spec(schedule=Schedule("onChange")), actions=[change])
    rig.run()
    assert watched == [world.source.resolve()]
    assert rig.host.waits == [None, None]
    assert rig.voice.states == ["running", "waiting", "running", "waiting", "stopped"]
    assert [s.next_run_at for s in rig.voice.statuses if s.state == "waiting"] == [None, None]
    assert world.arrived() == world.made


def test_on_change_does_not_read_for_a_wait_that_ends_without_news(world, watched):
    source = Scripted({"0": lambda _: reads.append(1) or []})
    reads = []
    spec = world.spec(schedule=Schedule("onChange"))
    Rig(world, spec, actions=[None, None], build=source.build).run()
    assert reads == [1]


@pytest.mark.parametrize("schedule", [every(HOUR), Schedule("onChange")], ids=["every", "onChange"])
def test_somebody_who_says_retry_is_not_kept_waiting(world, watched, schedule):
    def ask():
        world.add([51])
        rig.host.say_retry()
        rig.clock.advance(1.0 - (rig.host.waits[-1] or 0.0))  # long before it is due

    rig = Rig(world, world.spec(schedule=schedule), actions=[ask])
    rig.run()
    assert world.arrived() == world.made


def test_draining_ends_a_wait(world):
    rig = Rig(world, world.spec(schedule=every(HOUR)))
    rig.host.actions.append(rig.host.say_drain)
    assert rig.run() is WorkerExit.DONE
    assert rig.host.waits == [HOUR]
    assert rig.voice.states[-1] == "stopped"


def test_once_goes_on_where_a_failure_broke_it_off_and_is_not_done_twice(world):
    spec = world.spec(source={"snapshot": True})
    first = Rig(world, spec, order="a", faults=StopAt(2))
    first.faults.host = first.host
    first.run()
    assert sum(world.arrived().values()) == 20
    for attempt in (2, 3):
        rig = Rig(world, spec, order="a", attempt=attempt)
        assert rig.run() is WorkerExit.DONE
        assert rig.voice.states[-1] == "finished"
        assert world.arrived() == world.made
    Rig(world, spec, order="b", attempt=4).run()
    assert world.arrived() == world.made + world.made


# -- positions that move without rows -------------------------------------------------------------


def told_at(rig, source):
    """Patch the source so that it notes when it was told."""
    source.durable = lambda _, position: source.told.append((position, rig.clock.monotonic()))


def test_an_idle_position_is_committed_rarely(world):
    source = Scripted({"0": idle_positions()})
    rig = Rig(world, world.spec(schedule=every(10.0)), actions=[None] * 7, build=source.build)
    told_at(rig, source)
    rig.run()
    assert IDLE_COMMIT_SECONDS == 30.0
    assert source.told == [("4", 30.0), ("7", 60.0)]
    assert rig.journal.latest["scope-1", "0"].position == "7"
    assert rig.journal.latest["scope-1", "0"].fence == FenceToken(1, 1)


def test_an_idle_position_is_committed_when_the_session_ends_in_order(world):
    source = Scripted({"0": idle_positions()})
    rig = Rig(world, world.spec(schedule=every(10.0)), build=source.build)
    rig.host.actions += [None, rig.host.say_drain]
    told_at(rig, source)
    rig.run()
    assert source.told == [("2", 20.0)]


def test_an_idle_position_that_stands_still_is_not_committed_again(world):
    resumes = []
    source = Scripted({"0": lambda resume: resumes.append(resume) or idle_positions()(resume)})
    rig = Rig(world, world.spec(schedule=every(10.0)), actions=[None] * 8, build=source.build)
    told_at(rig, source)
    rig.run()
    assert source.told == [("1", 30.0)]
    assert resumes == [None] + ["1"] * 8


class StopAt:
    """Faults that make the host say stop when the n-th unit is done."""

    def __init__(self, n):
        self.left, self.host = n, None

    def step(self, name):
        self.left -= name == "durable"
        if self.left == 0:
            self.host.halt = "stop"
