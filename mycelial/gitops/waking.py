"""Waiting for a change, from one thread, woken by any other."""

from __future__ import annotations

import threading


class Wakeup:
    """A latch: a wake before the wait is not lost, many wakes are one."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def wake(self) -> None:
        """Let the present or the next `wait` return. Any thread."""
        self._flag.set()

    def wait(self, timeout_seconds: float) -> bool:
        """Return whether somebody woke us before the timeout, and forget it."""
        woken = self._flag.wait(max(timeout_seconds, 0.0))
        if woken:
            self._flag.clear()
        return woken
