"""What happened, on its way to the store, and the counter that long polls wait on."""

from __future__ import annotations

import asyncio

from mycelial.controlplane.fleet import Transition
from mycelial.kernel.clock import Clock
from mycelial.storage.base import Event

BUFFER_MAX = 10_000


class ChangeCounter:
    """Rises with everything a person could see change. Use from the loop's thread."""

    def __init__(self) -> None:
        self.value = 1
        self._changed = asyncio.Event()

    def bump(self) -> None:
        """Wake whoever waits."""
        self.value += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, after: int, seconds: float) -> int:
        """Return the counter once it is above `after`, or after that many seconds."""
        if self.value <= after and seconds > 0:
            changed = self._changed
            try:
                async with asyncio.timeout(seconds):
                    await changed.wait()
            except TimeoutError:
                pass
        return self.value


class Chronicle:
    """Collects events until a writer takes them; the store collapses repeats.

    When the store is away the newest BUFFER_MAX are kept. Implements the kernel's EventSink.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._buffer: list[Event] = []
        self.pending = asyncio.Event()

    def emit(self, reason: str, subject: str, message: str, *, severity: str = "info") -> None:
        """Record a transition."""
        self.record(reason, subject, message, severity=severity)

    def record(
        self,
        reason: str,
        subject: str,
        message: str,
        *,
        severity: str = "info",
        daemon: str = "",
        revision: str = "",
    ) -> None:
        """Record a transition with where and when it belongs."""
        event = Event(
            at=self._clock.now(),
            severity=severity,
            reason=reason,
            subject=subject,
            message=printable(message),
            daemon=daemon,
            revision=revision,
        )
        self.put_back((event,))

    def tell(self, transitions: tuple[Transition, ...]) -> None:
        """Record what folding a report or judging liveness found."""
        for t in transitions:
            self.record(t.reason, t.subject, t.message, severity=t.severity, daemon=t.daemon)

    def take(self) -> tuple[Event, ...]:
        """Return what is to be written, oldest first."""
        taken = tuple(self._buffer)
        self._buffer.clear()
        self.pending.clear()
        return taken

    def put_back(self, events: tuple[Event, ...]) -> None:
        """Keep events for later; the order within the store is by their time of writing."""
        self._buffer.extend(events)
        del self._buffer[:-BUFFER_MAX]
        if events:
            self.pending.set()


def printable(text: str, length_max: int = 2048) -> str:
    """Return text without control characters: what a daemon says is shown on terminals."""
    return "".join(c if c.isprintable() else " " for c in text[:length_max])
