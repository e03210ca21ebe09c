"""Which ends of a worker the supervisor takes for final, and how long it waits after the others."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading

import pytest
from runtime_fakes import endless

from mycelial.kernel.clock import SystemClock
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.ports import NullLog
from mycelial.runtime import supervisor as module
from mycelial.runtime.ports import WorkerPolicy
from mycelial.runtime.supervised import directory_of
from mycelial.runtime.supervisor import (
    CRASH_FIRST_SECONDS,
    CRASH_LONGEST_SECONDS,
    Supervisor,
)
from mycelial.schemas.desired import Retry
from mycelial.schemas.wire import PipelineState as S
from mycelial.schemas.wire import Truth


class Longest:
    """Chance that always draws the most, so that delays are what they can be at worst."""

    def uniform(self, low, high):
        return high


class Borrowed:
    """A launcher that outlives its supervisor."""

    def __init__(self, launcher):
        self.start = launcher.start

    def close(self):
        pass


class Hopeless:
    """A launcher that cannot start anything."""

    def start(self, request):
        raise OperationFailed("MYC-RUN-060", "no process can be made")

    def close(self):
        pass


class Machine:
    def __init__(self, world, launcher):
        self.changed = asyncio.Event()
        self.seen = []
        self.supervisor = Supervisor(
            launcher=launcher,
            state_dir=world.state,
            clock=SystemClock(),
            rng=Longest(),
            log=NullLog(),
            on_change=self.note,
        )

    def note(self, _uid):
        self.seen += self.supervisor.statuses()
        self.changed.set()

    async def until(self, wanted):
        async with asyncio.timeout(20):
            while True:
                statuses = self.supervisor.statuses()
                if statuses and wanted(statuses[0]):
                    return statuses[0]
                self.changed.clear()
                await self.changed.wait()

    def conditions(self):
        (status,) = self.supervisor.statuses()
        return {c.type: (c.status, c.reason) for c in status.conditions}


def play(world, launcher, spec, story, policy=None):
    """Run a story beside a supervisor that runs `spec`."""

    async def main():
        machine = Machine(world, launcher)
        running = asyncio.ensure_future(machine.supervisor.run())  # noqa: TID251 - a test's own
        try:
            await machine.supervisor.start(
                spec=spec, name="copy", generation=1, epoch=1, secrets=lambda _: {},
                policy=policy or WorkerPolicy(),
            )  # fmt: skip
            async with asyncio.timeout(20):
                return await story(machine)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    return asyncio.run(main())


def test_a_fenced_worker_is_not_started_again(world, launcher):
    spec = endless(world)

    async def story(m):
        await m.until(lambda s: s.counters.rows_committed == 50)
        await asyncio.to_thread(raise_fence, world, 2)
        world.add([51])
        failed = await m.until(lambda s: s.state is S.FAILED)
        await m.supervisor._slots[spec.uid].ended.wait()
        return failed, m.supervisor.statuses()[0], m.supervisor.running()[spec.uid], m.conditions()

    failed, after, running, conditions = play(world, Borrowed(launcher), spec, story)
    assert failed.error.code == "MYC-TEST-002"
    assert (after.state, after.error, after.attempt) == (S.FAILED, failed.error, 1)
    assert after.counters.restarts == 0
    assert not running.has_process
    assert conditions == {"Healthy": (Truth.FALSE, "Failed"), "Stalled": (Truth.TRUE, "Failed")}
    assert sum(world.arrived().values()) == 50


def raise_fence(world, epoch):
    with contextlib.closing(sqlite3.connect(world.target, timeout=20)) as db, db:
        db.execute("update fence set epoch = ?", (epoch,))


def test_a_worker_over_its_memory_limit_is_not_started_again(world, launcher):
    spec = endless(world)

    async def story(m):
        await m.until(lambda s: s.state is S.FAILED)
        await m.supervisor._slots[spec.uid].ended.wait()
        return m.supervisor.statuses()[0], m.supervisor.running()[spec.uid]

    policy = WorkerPolicy(memory_max_bytes=2**20)
    status, running = play(world, Borrowed(launcher), spec, story, policy)
    assert (status.state, status.error.code) == (S.FAILED, "MYC-RUN-050")
    assert (status.attempt, status.counters.restarts) == (1, 0)
    assert not running.has_process


def test_patience_used_up_shows_as_stalled_until_it_works(world, launcher):
    table = world.directory / "table"
    spec = world.spec(source={"appears": str(table)}, retry=Retry(0.0))

    async def story(m):
        await m.until(lambda s: s.state is S.RETRYING)
        stalled = m.conditions()
        table.touch()
        await m.supervisor.retry(spec.uid)
        await m.until(lambda s: s.state is S.FINISHED)
        return stalled, m.conditions()

    stalled, after = play(world, Borrowed(launcher), spec, story)
    assert stalled == {
        "Healthy": (Truth.FALSE, "Retrying"),
        "Stalled": (Truth.TRUE, "RetriesExhausted"),
    }
    assert after == {
        "Healthy": (Truth.TRUE, "Finished"),
        "Stalled": (Truth.FALSE, "Progressing"),
    }
    assert world.arrived() == world.made


def test_crashes_without_progress_wait_longer_each_time_up_to_a_bound(world):
    async def story(m):
        delays = []
        for number in range(1, 11):
            status = await m.until(
                lambda s, number=number: s.state is S.RETRYING and s.attempt == number
            )
            delays.append(status.retry_at - status.since)
            await m.supervisor.retry(status.uid)
        return delays

    delays = play(world, Hopeless(), world.spec(), story)
    expected = [min(CRASH_LONGEST_SECONDS, CRASH_FIRST_SECONDS * 2**n) for n in range(10)]
    assert delays == pytest.approx(expected, abs=0.1)


def test_a_start_that_finds_no_room_for_its_number_is_tried_again(world, launcher, monkeypatch):
    raise_attempt, is_full = module.raise_attempt, threading.Event()
    is_full.set()

    def on_a_full_disk(path):
        if is_full.is_set():
            raise OSError(28, "No space left on device", str(path))
        return raise_attempt(path)

    monkeypatch.setattr(module, "raise_attempt", on_a_full_disk)
    spec = world.spec()

    async def story(m):
        waiting = await m.until(lambda s: s.state in (S.RETRYING, S.FAILED))
        is_full.clear()
        await m.supervisor.retry(spec.uid)
        return waiting, await m.until(lambda s: s.state is S.FINISHED)

    waiting, after = play(world, Borrowed(launcher), spec, story)
    assert (waiting.state, waiting.error.code) == (S.RETRYING, "MYC-RUN-091")
    assert str(directory_of(world.state, spec.uid)) in waiting.error.what
    assert after.error is None
    assert world.arrived() == world.made
