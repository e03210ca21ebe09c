"""History for people: one entry per subject and reason, with a count, instead of a thousand."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from mycelial.kernel.clock import Clock
from mycelial.kernel.ports import Log, Meter, NullMeter
from mycelial.observability.logs import escape


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened `count` times between `first` and `last` (Unix seconds)."""

    reason: str
    subject: str
    message: str
    severity: str
    first: float
    last: float
    count: int = 1


class EventHistory:
    """A kernel EventSink. Thread-safe, bounded to `events_max` entries (I9), newest kept.

    A repeat (same subject, reason and severity within `window_seconds` of the last one) raises the
    count and takes the newer message; only the first of a run is logged and given to `forward`.
    """

    def __init__(
        self,
        clock: Clock,
        log: Log,
        *,
        meter: Meter | None = None,
        forward: Callable[[Event], None] | None = None,
        window_seconds: float = 600.0,
        events_max: int = 500,
    ) -> None:
        self._clock = clock
        self._log = log
        self._meter = meter or NullMeter()
        self._forward = forward
        self._window_seconds = window_seconds
        self._events_max = events_max
        self._open: OrderedDict[tuple[str, str, str], Event] = OrderedDict()
        self._closed: list[Event] = []
        self._lock = threading.Lock()

    def emit(self, reason: str, subject: str, message: str, *, severity: str = "info") -> None:
        """Record that something changed."""
        now = self._clock.now()
        fresh = Event(reason, escape(subject), escape(message), severity, first=now, last=now)
        self._meter.add("mycelial_events_total", reason=reason, severity=severity)
        with self._lock:
            is_first = self._record(fresh)
        if is_first:
            self._tell(fresh)

    def recent(self, limit: int = 100) -> tuple[Event, ...]:
        """Return the events, newest first."""
        with self._lock:
            events = [*self._closed, *self._open.values()]
        return tuple(sorted(events, key=lambda event: event.last, reverse=True)[:limit])

    def _record(self, fresh: Event) -> bool:
        key = (fresh.subject, fresh.reason, fresh.severity)
        known = self._open.pop(key, None)
        if known is not None and fresh.last - known.last <= self._window_seconds:
            self._open[key] = replace(
                known, message=fresh.message, last=fresh.last, count=known.count + 1
            )
            return False
        if known is not None:
            self._closed.append(known)
        self._open[key] = fresh
        while len(self._open) + len(self._closed) > self._events_max:
            if self._closed:
                self._closed.pop(0)
            else:
                self._open.popitem(last=False)
        return True

    def _tell(self, event: Event) -> None:
        say = {"error": self._log.error, "warning": self._log.warning}.get(
            event.severity, self._log.info
        )
        say(event.message, reason=event.reason, subject=event.subject)
        if self._forward is not None:
            self._forward(event)
