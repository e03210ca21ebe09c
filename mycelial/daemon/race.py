"""Wait for the first of several things, leaving no task behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mycelial.kernel.clock import Clock


async def race(*contenders: Coroutine[Any, Any, object]) -> int:
    """Run all until the first ends, cancel the others, and return the index of the first.

    A failure of one is raised as it is, not inside an exception group; where several fail at once,
    the first named one wins.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in contenders]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            winner = next(index for index, task in enumerate(tasks) if task.done())
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as group_error:
        raise _first(group_error) from None
    return winner


async def wait_for(event: asyncio.Event, seconds: float, clock: Clock) -> bool:
    """Wait until the event is set or the time is over; tell whether it is set."""
    if not event.is_set() and seconds > 0:
        await race(event.wait(), clock.pause(seconds))
    return event.is_set()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
