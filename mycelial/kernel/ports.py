"""What a room may be given to make itself seen: Log, Meter, EventSink.

Implementations live in `observability`; tests and pure code use the null ones here.
"""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """Structured log. `event` is a constant phrase; facts go in keyword fields, never secrets."""

    def debug(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def info(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def warning(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def error(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def bind(self, **fields: object) -> Log:
        """Return a log that adds `fields` to every line."""


class Meter(Protocol):
    """Counters and gauges. Names end in their unit; labels are few and bounded."""

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""


class EventSink(Protocol):
    """History for people: one line per transition, grouped by subject and reason."""

    def emit(self, reason: str, subject: str, message: str, *, severity: str = "info") -> None:
        """Record that something changed. `reason` is PascalCase, `subject` is Kind/name."""


class NullLog:
    """A log that nobody reads."""

    def debug(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def info(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def warning(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def error(self, event: str, **fields: object) -> None: ...  # noqa: D102
    def bind(self, **fields: object) -> Log:  # noqa: D102
        return self


class NullMeter:
    """A meter that counts nothing."""

    def add(self, name: str, amount: float = 1, **labels: str) -> None: ...  # noqa: D102
    def set(self, name: str, value: float, **labels: str) -> None: ...  # noqa: D102


class NullEvents:
    """An event sink that forgets."""

    def emit(self, reason: str, subject: str, message: str, *, severity: str = "info") -> None: ...  # noqa: D102
