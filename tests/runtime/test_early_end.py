"""A pipeline that is to end while its worker is still being started."""

from __future__ import annotations

import asyncio
import threading

import pytest
from runtime_fakes import endless

from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import seeded_rng
from mycelial.kernel.ports import NullLog
from mycelial.runtime.ports import WorkerPolicy
from mycelial.runtime.supervisor import Supervisor
from mycelial.schemas.wire import PipelineState


class SlowLauncher:
    """Starts a worker only when released, as a cold zygote does."""

    def __init__(self, launcher):
        self.launcher = launcher
        self.asked, self.released = threading.Event(), threading.Event()

    def start(self, request):
        self.asked.set()
        assert self.released.wait(20)
        return self.launcher.start(request)

    def close(self):
        self.released.set()


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_a_worker_that_is_only_being_started_is_told_to_end(world, launcher, how):
    slow = SlowLauncher(launcher)
    supervisor = Supervisor(
        launcher=slow,
        state_dir=world.state,
        clock=SystemClock(),
        rng=seeded_rng(1),
        log=NullLog(),
        on_change=lambda _: None,
    )
    spec = endless(world)

    async def story():
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run())
            await supervisor.start(
                spec=spec, name="copy", generation=1, epoch=1, secrets=lambda _: {},
                policy=WorkerPolicy(),
            )  # fmt: skip
            await asyncio.to_thread(slow.asked.wait)
            # The patience is longer than the test: only a worker that was told ends in time.
            ending = (
                supervisor.drain(spec.uid, 300.0) if how == "drain" else supervisor.stop(spec.uid)
            )
            task = group.create_task(ending)
            await asyncio.sleep(0)
            slow.released.set()
            await task
            (status,) = supervisor.statuses()
            running.cancel()
            return status.state

    assert asyncio.run(story()) is PipelineState.STOPPED
