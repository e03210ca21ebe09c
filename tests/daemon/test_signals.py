"""An orderly end on a signal, and handlers left as they were found."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from mycelial.daemon.race import race, wait_for
from mycelial.daemon.signals import stop_on_signals
from mycelial.kernel.clock import ManualClock


@pytest.mark.skipif(sys.platform == "win32", reason="kill() ends the process on Windows")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_the_end_and_the_next_one_is_not_caught(number):
    before = signal.getsignal(number)

    async def scenario():
        stop, inside = asyncio.Event(), signal.getsignal(number)
        with stop_on_signals(stop):
            os.kill(os.getpid(), number)
            async with asyncio.timeout(10):
                await stop.wait()
            assert signal.getsignal(number) == inside

    asyncio.run(scenario())
    assert signal.getsignal(number) is before


def test_a_race_raises_the_failure_itself_and_leaves_no_task():
    async def fail():
        raise LookupError("mine")

    async def scenario():
        with pytest.raises(LookupError, match="mine"):
            await race(asyncio.Event().wait(), fail())
        return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


def test_a_race_that_is_cancelled_cancels_its_contenders():
    ended = []

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def scenario():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(race(linger(), linger()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()

    asyncio.run(scenario())
    assert ended == [True, True]


def test_waiting_ends_with_the_time():
    async def scenario():
        event = asyncio.Event()
        assert not await wait_for(event, 5.0, ManualClock())
        event.set()
        assert await wait_for(event, 0.0, ManualClock())

    asyncio.run(scenario())
