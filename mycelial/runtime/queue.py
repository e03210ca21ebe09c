"""The joint between reader and writer: bounded in bytes and in count, woken at once."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueClosed(Exception):
    """The other side has gone."""


class ByteQueue(Generic[T]):
    """One producer, one consumer. An item larger than the bound passes alone (I9)."""

    def __init__(self, *, max_bytes: int, max_items: int = 64) -> None:
        self._max_bytes, self._max_items = max_bytes, max_items
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._woken = False
        self._closed = False
        lock = threading.Lock()
        self._not_empty = threading.Condition(lock)
        self._not_full = threading.Condition(lock)

    def put(self, item: T, nbytes: int) -> None:
        """Wait for room, then append. Raises: QueueClosed."""
        with self._not_full:
            while not self._closed and self._items and self._is_full(nbytes):
                self._not_full.wait()
            if self._closed:
                raise QueueClosed
            self._items.append((item, nbytes))
            self._bytes += nbytes
            self._not_empty.notify()

    def get(self, timeout_seconds: float | None = None) -> T | None:
        """Return the next item, or None after the timeout or a `wake`."""
        with self._not_empty:
            if not self._items and not self._woken:
                self._not_empty.wait(timeout_seconds)
            self._woken = False
            if not self._items:
                return None
            item, nbytes = self._items.popleft()
            self._bytes -= nbytes
            self._not_full.notify()
            return item

    def pause(self, seconds: float) -> None:
        """Make the producer wait without holding anybody up. Raises: QueueClosed."""
        with self._not_full:
            if not self._closed:
                self._not_full.wait_for(lambda: self._closed, seconds)
            if self._closed:
                raise QueueClosed

    def wake(self) -> None:
        """Make `get` return, now or the next time."""
        with self._not_empty:
            self._woken = True
            self._not_empty.notify()

    def close(self) -> None:
        """Drop what is queued and turn the producer away."""
        with self._not_full:
            self._closed = True
            self._items.clear()
            self._bytes = 0
            self._not_full.notify_all()

    def _is_full(self, nbytes: int) -> bool:
        return self._bytes + nbytes > self._max_bytes or len(self._items) >= self._max_items
