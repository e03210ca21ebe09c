"""A queue of keys with client-go's semantics; time and chance come in as arguments.

Duplicates collapse; a key is never handed out twice at once; a key added while it is worked on is
handed out again after `done` (R4). Not for several threads.
Source: kubernetes/client-go util/workqueue (dirty and processing sets).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from mycelial.reconciler.backoff import Backoff, Rng

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys waiting, keys being worked on, and keys that wait for their time.

    A key is *dirty* from its add until it is handed out, and *processing* until it is done.
    """

    def __init__(self, backoff: Backoff[K] | None = None) -> None:
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._ticket = 0
        self._backoff: Backoff[K] = backoff if backoff is not None else Backoff()
        self._is_shut_down = False
        self._is_draining = False

    def __len__(self) -> int:
        """Return how many keys are ready; neither those worked on nor those not yet due."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Mark a key as needing work. A no-op if it already does, or after shutdown."""
        if self._is_shut_down or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready[key] = None

    def add_after(self, key: K, delay_seconds: float, *, now: float) -> None:
        """Add the key when its time has come; of several times for one key the earliest wins."""
        if self._is_shut_down:
            return
        if delay_seconds <= 0:
            self.add(key)
            return
        due = now + delay_seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._ticket += 1
            heapq.heappush(self._heap, (due, self._ticket, key))

    def retry(self, key: K, rng: Rng, *, now: float, generation: int = 0) -> float:
        """Add the key after its own backoff and return the delay drawn."""
        delay_seconds = self._backoff.next_delay(key, rng, generation=generation)
        self.add_after(key, delay_seconds, now=now)
        return delay_seconds

    def forget(self, key: K) -> None:
        """The key's work succeeded: its next failure starts at the shortest delay."""
        self._backoff.forget(key)

    def failures(self, key: K) -> int:
        """Return how often in a row the key was retried."""
        return self._backoff.failures(key)

    def get(self, *, now: float) -> K | None:
        """Hand out the key that is ready longest, or None. The caller owes a `done`."""
        self._wake_due(now)
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """End the work on a key. If it was added meanwhile, it is ready again."""
        self._processing.discard(key)
        if key in self._dirty:
            self._ready[key] = None

    def next_due(self) -> float | None:
        """Return when the first delayed key becomes ready, or None."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # superseded by an earlier time, already handed over
        return self._heap[0][0] if self._heap else None

    def shut_down(self, *, drain: bool = False) -> None:
        """Take no more keys. Those ready are still handed out; those not yet due are dropped.

        With `drain` the queue is finished only when nothing is worked on any more; without it,
        when nothing is ready. A later call without `drain` ends a drain.
        """
        self._is_shut_down = True
        self._is_draining = drain
        self._due.clear()
        self._heap.clear()

    @property
    def is_finished(self) -> bool:
        """True when nothing will ever be handed out again, and no drain is awaited."""
        busy = bool(self._ready) or (self._is_draining and bool(self._processing))
        return self._is_shut_down and not busy

    def _wake_due(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
