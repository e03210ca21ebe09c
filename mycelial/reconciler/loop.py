"""Drive a reconcile from a keyed queue: the only async file of this room.

It owns no task: the caller starts `run` in its own TaskGroup, several times for concurrency. What
is done with a key, the time and chance all come in as arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mycelial.kernel.errors import MycelialError, OperationFailed, Unreachable
from mycelial.reconciler.backoff import Rng
from mycelial.reconciler.workqueue import WorkQueue

K = TypeVar("K", bound=Hashable)
RESYNC_SECONDS = 300.0
RESYNC_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Handled:
    """A key was reconciled. `requeue_after` in seconds, None to wait for a change or resync."""

    requeue_after: float | None = None


Reconcile = Callable[[K], Awaitable[Handled]]
"""Reads, decides and applies for one key; safe to run again at any time.

It raises OperationFailed or Unreachable to be retried with backoff; any other MycelialError is
terminal, and the key waits for a change or the next resync.
"""

OnFailure = Callable[[K, Exception, float | None], None]
"""Told of a failed key, with the delay until it is tried again, None for a terminal error."""


def jittered(seconds: float, rng: Rng, *, spread: float = RESYNC_SPREAD) -> float:
    """Return a period spread around itself, so that resyncs do not march in step (R1)."""
    return seconds * rng.uniform(1 - spread, 1 + spread)


class Loop(Generic[K]):
    """Keys in, reconciles out. Use from one event loop; `add` from its thread only."""

    def __init__(
        self,
        reconcile: Reconcile[K],
        *,
        monotonic: Callable[[], float],
        rng: Rng,
        on_failure: OnFailure[K],
        queue: WorkQueue[K] | None = None,
        resync_seconds: float | None = RESYNC_SECONDS,
    ) -> None:
        self._reconcile = reconcile
        self._monotonic = monotonic
        self._rng = rng
        self._on_failure = on_failure
        self._queue: WorkQueue[K] = queue if queue is not None else WorkQueue()
        self._resync_seconds = resync_seconds
        self._changed = asyncio.Event()
        self._generations: dict[K, int] = {}

    def add(self, key: K, *, generation: int | None = None) -> None:
        """Ask for a reconcile of the key, as soon as may be.

        A new `generation` lets its next failure start at the shortest delay again.
        """
        if generation is not None:
            self._generations[key] = generation
        self._queue.add(key)
        self._changed.set()

    def shut_down(self, *, drain: bool = False) -> None:
        """Make every `run` return once what is ready (with `drain`: and in work) is done."""
        self._queue.shut_down(drain=drain)
        self._changed.set()

    async def run(self) -> None:
        """Work until shut down or cancelled. A cancelled reconcile gives its key back."""
        while not self._queue.is_finished:
            key = self._queue.get(now=self._monotonic())
            if key is None:
                await self._wait()
                continue
            try:
                await self._handle(key)
            except asyncio.CancelledError:
                self._queue.add(key)  # whoever runs next finds it undone, not lost
                raise
            finally:
                self._queue.done(key)
                self._changed.set()  # a drain may be over, or the key ready again

    async def _handle(self, key: K) -> None:
        try:
            handled = await self._reconcile(key)
        except (OperationFailed, Unreachable) as error:
            self._retry(key, error)
        except MycelialError as error:
            self._queue.forget(key)
            self._on_failure(key, error, None)
            self._resync(key)
        # A supervisor: one key's bug must not end the work on all the others.
        except Exception as error:
            self._retry(key, error)
        else:
            self._queue.forget(key)
            if handled.requeue_after is None:
                self._resync(key)
            else:
                self._queue.add_after(key, handled.requeue_after, now=self._monotonic())

    def _retry(self, key: K, error: Exception) -> None:
        generation = self._generations.get(key, 0)
        now = self._monotonic()
        delay = self._queue.retry(key, self._rng, now=now, generation=generation)
        self._on_failure(key, error, delay)

    def _resync(self, key: K) -> None:
        if self._resync_seconds is not None:
            after = jittered(self._resync_seconds, self._rng)
            self._queue.add_after(key, after, now=self._monotonic())

    async def _wait(self) -> None:
        due = self._queue.next_due()
        remaining = None if due is None else max(0.0, due - self._monotonic())
        self._changed.clear()
        try:
            async with asyncio.timeout(remaining):
                await self._changed.wait()
        except TimeoutError:
            return  # a delayed key is due
