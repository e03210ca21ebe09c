"""Time, as something that is handed in. The only importer of `time`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

# CLOCK_BOOTTIME goes on while the machine sleeps, so a lease cannot outlive a suspend unnoticed.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Wall time for people, monotonic time for decisions. Unit: seconds."""

    def now(self) -> float:
        """Return Unix seconds (UTC). For display and schedules; may jump."""

    def monotonic(self) -> float:
        """Return seconds that never go back and go on during suspend. For leases and backoff."""

    def sleep(self, seconds: float) -> None:
        """Block this thread."""

    async def pause(self, seconds: float) -> None:
        """Suspend this task."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return boot-time seconds where the platform has them."""
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    async def pause(self, seconds: float) -> None:
        """Suspend this task."""
        # Imported here: a worker is plain threads and should not pay for an event loop.
        import asyncio

        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told; for tests and simulation."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._mono = 0.0

    def now(self) -> float:
        """Return the set wall time."""
        return self._wall

    def monotonic(self) -> float:
        """Return seconds advanced since creation."""
        return self._mono

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._wall += seconds
        self._mono += seconds

    def sleep(self, seconds: float) -> None:
        """Advance instead of blocking."""
        self.advance(seconds)

    async def pause(self, seconds: float) -> None:
        """Advance instead of suspending."""
        import asyncio

        self.advance(seconds)
        await asyncio.sleep(0)


def rfc3339(instant: float) -> str:
    """Return Unix seconds as `2026-01-31T12:00:00.123Z`."""
    text = datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
