from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from runtime_fakes import endless

from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import seeded_rng
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.ports import NullLog
from mycelial.runtime.attempt import read_attempt
from mycelial.runtime.ports import WorkerPolicy, WorkerRequest
from mycelial.runtime.supervised import Memory, directory_of
from mycelial.runtime.supervisor import CRASH_FIRST_SECONDS, Supervisor
from mycelial.schemas.wire import Fence, Truth
from mycelial.schemas.wire import PipelineState as S


class Watched:
    """A launcher that is not closed with its supervisor, and knows whom it started."""

    def __init__(self, launcher):
        self.launcher, self.started = launcher, []

    def start(self, request):
        self.started.append(self.launcher.start(request))
        return self.started[-1]

    def close(self):
        pass


class Machine:
    """A supervisor, running, and a way to wait for what it reports."""

    def __init__(self, state_dir, launcher):
        self.state_dir = state_dir
        self.changed = asyncio.Event()
        self.launcher = Watched(launcher)
        self.supervisor = Supervisor(
            launcher=self.launcher,
            state_dir=state_dir,
            clock=SystemClock(),
            rng=seeded_rng(1),
            log=NullLog(),
            on_change=lambda _: self.changed.set(),
        )

    async def __aenter__(self):
        self.task = asyncio.ensure_future(self.supervisor.run())  # noqa: TID251 - a test's own
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def start(self, spec, **fields):
        fields = {"name": "copy", "generation": 1, "epoch": 1, "policy": WorkerPolicy(), **fields}
        await self.supervisor.start(spec=spec, secrets=lambda _: {}, **fields)

    async def until(self, wanted):
        async with asyncio.timeout(20):
            while True:
                statuses = self.supervisor.statuses()
                if statuses and wanted(statuses[0]):
                    return statuses[0]
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def run(launcher):
    """Run a story beside a supervisor on the world's state, and return what it returns."""

    def play(world, story):
        async def main():
            async with Machine(world.state, launcher) as machine:
                return await story(machine)

        return asyncio.run(main())

    return play


def test_a_pipeline_runs_and_is_reported(world, run):
    async def story(m):
        await m.start(world.spec(), generation=3, epoch=2)
        return await m.until(lambda s: s.state is S.FINISHED)

    status = run(world, story)
    assert (status.generation, status.observed_generation, status.epoch) == (3, 3, 2)
    assert status.attempt == 1
    assert status.guarantee == "exactly-once"
    assert status.counters.rows_committed == 50
    assert json.loads(status.positions["0"])["id"] == 50
    assert [(c.type, c.status) for c in status.conditions] == [
        ("Healthy", Truth.TRUE),
        ("Stalled", Truth.FALSE),
    ]
    assert world.arrived() == world.made


def test_a_crashed_worker_is_started_again_with_a_higher_attempt(world, run):
    async def story(m):
        await m.start(endless(world))
        await m.until(lambda s: s.counters.rows_committed == 50)
        slot = next(iter(m.supervisor._slots.values()))
        slot.worker.kill()
        retrying = await m.until(lambda s: s.state is S.RETRYING)
        world.add([51])
        healed = await m.until(lambda s: s.counters.rows_committed == 51)
        return retrying, healed

    retrying, healed = run(world, story)
    assert retrying.error.code == "MYC-RUN-067"
    assert (healed.attempt, healed.counters.restarts) == (2, 1)
    assert world.arrived() == world.made


def test_crashes_between_which_rows_got_through_do_not_add_up(world, run):
    async def story(m):
        await m.start(endless(world))
        delays = []
        for number in range(51, 57):
            await m.until(lambda s, number=number: s.counters.rows_committed == number - 1)
            next(iter(m.supervisor._slots.values())).worker.kill()
            retrying = await m.until(lambda s: s.state is S.RETRYING)
            delays.append(retrying.retry_at - retrying.since)
            world.add([number])
        return delays

    delays = run(world, story)
    assert max(delays) <= CRASH_FIRST_SECONDS + 0.01
    assert len(delays) == 6


def test_drain_stop_and_forget(world, run):
    async def story(m):
        spec = endless(world)
        await m.start(spec)
        await m.until(lambda s: s.counters.rows_committed == 50)
        await m.supervisor.drain(spec.uid, 10.0)
        drained = m.supervisor.statuses()[0]
        process = m.supervisor.running()[spec.uid].has_process
        await m.start(spec)
        await m.until(lambda s: s.state is S.RUNNING)
        await m.supervisor.stop(spec.uid)
        stopped = m.supervisor.statuses()[0]
        directory = directory_of(world.state, spec.uid)
        attempts = read_attempt(directory / "attempt")
        lines, cursor = m.supervisor.log_tail(spec.uid, 100, "")
        later, _ = m.supervisor.log_tail(spec.uid, 100, cursor)
        await m.supervisor.forget(spec.uid)
        return drained, process, stopped, attempts, lines, later, directory, m.supervisor.running()

    drained, process, stopped, attempts, lines, later, directory, left = run(world, story)
    assert (drained.state, process, stopped.state, attempts) == (S.STOPPED, False, S.STOPPED, 2)
    assert stopped.counters.rows_committed == 50
    assert lines[0]["event"] == "worker starts"
    assert later == ()
    assert not directory.exists()
    assert left == {}


def test_a_finished_once_pipeline_stays_finished_over_a_restart_of_the_daemon(world, run):
    spec = world.spec(source={"snapshot": True})

    async def story(m):
        await m.start(spec)
        return await m.until(lambda s: s.state is S.FINISHED)

    run(world, story)
    status = run(world, story)
    assert world.arrived() == world.made
    assert status.counters.rows_committed == 50

    async def again(m):
        await m.start(spec)
        await m.until(lambda s: s.state is S.FINISHED)
        await asyncio.sleep(0)
        slot = m.supervisor._slots[spec.uid]
        await slot.ended.wait()
        await m.supervisor.retry(spec.uid)
        await m.until(lambda s: s.counters.rows_committed == 100)

    run(world, again)
    assert world.arrived() == world.made + world.made


def test_jobs_answer_beside_a_running_pipeline(world, run):
    async def story(m):
        spec = endless(world)
        await m.start(spec)
        await m.until(lambda s: s.counters.rows_committed == 50)
        probe = await m.supervisor.job(WorkerRequest("probe", spec, Fence(1, 0), ""), 20.0)
        request = WorkerRequest(
            "state-set", spec, Fence(1, 0), "", part="0", position=json.dumps({"id": 40})
        )
        done = await m.supervisor.job(request, 20.0)
        await m.until(lambda s: s.counters.rows_committed == 60)
        return probe, done

    probe, done = run(world, story)
    assert probe.plan.mode == "append"
    assert done.problem is None
    assert sum(world.arrived().values()) == 60
    assert world.arrived()[(41, "v41")] == 2


def test_a_probe_of_an_unknown_pipeline_leaves_nothing(world, run):
    async def story(m):
        await m.supervisor.job(WorkerRequest("probe", world.spec(), Fence(1, 0), ""), 20.0)

    run(world, story)
    assert list((world.state / "pipelines").iterdir()) == []


def test_a_job_that_takes_too_long_is_ended(world, run):
    async def story(m):
        spec = world.spec(source={"hang": True})
        with pytest.raises(OperationFailed, match="MYC-RUN-065"):
            await m.supervisor.job(WorkerRequest("probe", spec, Fence(1, 0), ""), 0.2)
        return m.launcher.started

    (worker,) = run(world, story)
    assert worker.wait(10) == -signal.SIGKILL


def test_no_worker_outlives_the_supervisor(world, run):
    async def story(m):
        await m.start(endless(world))
        status = await m.until(lambda s: s.counters.rows_committed == 50)
        return next(iter(m.supervisor._slots.values())).worker.pid, status

    pid, _ = run(world, story)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_adopting_changes_labels_only(world, run):
    async def story(m):
        spec = endless(world)
        await m.start(spec)
        before = await m.until(lambda s: s.counters.rows_committed == 50)
        await m.supervisor.adopt(spec.uid, 7, 4, "renamed")
        return before, m.supervisor.statuses()[0]

    before, after = run(world, story)
    assert (after.generation, after.epoch, after.name) == (7, 4, "renamed")
    assert (after.attempt, after.state) == (before.attempt, before.state)


@pytest.mark.parametrize("uid", ["../../etc", "..", "a/b", "x" * 500, "a:b", ""])
def test_a_uid_never_leads_out_of_the_state_directory(tmp_path, uid):
    assert directory_of(tmp_path, uid).parent == tmp_path / "pipelines"
    assert directory_of(tmp_path, uid).resolve().parent == (tmp_path / "pipelines").resolve()


def test_lost_counters_cost_figures_only(tmp_path):
    path = tmp_path / "counters"
    path.write_text("{")
    assert Memory.load(path) == Memory()


def test_the_daemons_side_loads_no_arrow_no_pydantic_no_driver():
    code = (
        "import sys, mycelial.runtime.supervisor, mycelial.runtime.zygote, mycelial.runtime.spawn;"
        "bad = ('arro3', 'pyarrow', 'pydantic', 'adbc_driver_manager', 'ruamel', 'watchfiles');"
        "print([m for m in bad if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
