"""Where blocking work goes: one named thread per resource, so that each sees one caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """A single thread that runs what it is given, in order. Created lazily by its first use."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"mycelial-{name}")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `work` on the thread. Cancelling the caller does not undo work already begun."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class Lanes:
    """The control plane's threads.

    store: everything that touches the database. source: git, parsing, compiling and planning.
    waiting: blocked in `ManifestSource.wait`, and nothing else.
    """

    def __init__(self) -> None:
        self.store = Lane("store")
        self.source = Lane("source")
        self.waiting = Lane("waiting")

    def close(self) -> None:
        """End all three; whoever waits must have been woken before."""
        for lane in (self.waiting, self.source, self.store):
            lane.close()
