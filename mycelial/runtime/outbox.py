"""The worker's mouth: a thread that writes lines, so that a slow host never holds up the rows."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable

from mycelial.kernel.clock import Clock
from mycelial.runtime.ports import WorkerMessage
from mycelial.schemas.codec import encode

STATUS_EVERY_SECONDS = 0.5
PENDING_MAX = 256


class Outbox:
    """Messages go in order; statuses are a level, so only the newest waits (R1)."""

    def __init__(self, fd: int, clock: Clock, scrub: Callable[[str], str] = str) -> None:
        self._fd, self._clock, self._scrub = fd, clock, scrub
        self._ready = threading.Condition()
        self._pending: deque[WorkerMessage] = deque(maxlen=PENDING_MAX)
        self._status: Callable[[], WorkerMessage] | None = None
        self._status_due = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._speak, name="report", daemon=True)
        self._thread.start()

    def send(self, message: WorkerMessage) -> None:
        """Queue a message that must arrive."""
        with self._ready:
            if message.type in ("status", "exit"):
                self._status = None  # this one is newer
            self._pending.append(message)
            self._ready.notify()

    def touch(self, status: Callable[[], WorkerMessage]) -> None:
        """Ask for a status soon: `status` is called when it is written."""
        if self._status is None:  # unlocked: a lost race is mended by the next touch
            with self._ready:
                self._status = status
                self._ready.notify()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Write what is queued, for a bounded time."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(timeout_seconds)

    def _speak(self) -> None:
        while (message := self._next()) is not None:
            data = self._scrub(json.dumps(encode(message), ensure_ascii=False)).encode() + b"\n"
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                return  # the host is gone; the inbox sees it too and ends the worker

    def _next(self) -> WorkerMessage | None:
        with self._ready:
            while True:
                if self._pending:
                    return self._pending.popleft()
                wait: float | None = None
                if self._status is not None:
                    wait = self._status_due - self._clock.monotonic()
                    if wait <= 0 or self._closing:
                        status, self._status = self._status, None
                        self._status_due = self._clock.monotonic() + STATUS_EVERY_SECONDS
                        return status()
                if self._closing:
                    return None
                self._ready.wait(wait)
