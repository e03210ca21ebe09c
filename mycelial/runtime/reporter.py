"""What a worker says about itself: state, counters, positions, events, plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import Problem
from mycelial.kernel.ports import Log
from mycelial.runtime.ports import WorkerMessage, WorkerStatus
from mycelial.schemas.wire import Counters, LivePlan, PipelineState

RATE_SECONDS, MARK_SECONDS = 10.0, 0.5


class Voice(Protocol):
    """Where messages go; an Outbox, or a list in tests."""

    def send(self, message: WorkerMessage) -> None:
        """Deliver a message."""

    def touch(self, status: Callable[[], WorkerMessage]) -> None:
        """Ask for a status soon."""


class Reporter:
    """Written by the engine's writer thread; read by the outbox's."""

    def __init__(self, outbox: Voice, clock: Clock, log: Log) -> None:
        self._outbox, self._clock, self._log = outbox, clock, log
        self._status = WorkerStatus(PipelineState.STARTING)
        self._rows_read = self._rows = self._bytes = self._units = self._rejected = 0
        self._positions: Mapping[str, str] = {}
        self._event_time: float | None = None
        self._marks: deque[tuple[float, int]] = deque([(clock.monotonic(), 0)])

    @property
    def state(self) -> PipelineState:
        """The state last told."""
        return self._status.state

    @property
    def units(self) -> int:
        """Units committed by this worker: progress, to tell trouble from trouble."""
        return self._units

    def transition(
        self,
        state: PipelineState,
        *,
        error: Problem | None = None,
        retry_at: float | None = None,
        next_run_at: float | None = None,
        is_stalled: bool = False,
    ) -> None:
        """Tell a new state at once."""
        self._status = WorkerStatus(
            state=state,
            error=error,
            retry_at=retry_at,
            next_run_at=next_run_at,
            is_stalled=is_stalled,
        )
        self._outbox.send(self._message())

    def plan(self, plan: LivePlan) -> None:
        """Tell what is about to happen."""
        self._outbox.send(WorkerMessage("plan", plan=plan))

    def event(self, reason: str, message: str, *, severity: str = "info") -> None:
        """Tell history, in the log and to the host."""
        (self._log.warning if severity == "warning" else self._log.info)(
            message, reason=reason, kind="event"
        )
        value = {"reason": reason, "message": message, "severity": severity}
        self._outbox.send(WorkerMessage("event", value=value))

    def read(self, rows: int) -> None:
        """Count rows that came from the source."""
        self._rows_read += rows

    def rejected(self, rows: int) -> None:
        """Count rows that were refused."""
        self._rejected += rows

    def committed(
        self, rows: int, nbytes: int, positions: Mapping[str, str], event_time: float | None
    ) -> None:
        """Count a unit whose receipt is in the journal."""
        self._rows += rows
        self._bytes += nbytes
        self._units += 1
        self._positions = positions
        self._event_time = event_time if event_time is not None else self._event_time
        self._outbox.touch(self._message)

    def rested(self) -> None:
        """Say once more how fast it was, until that is nothing: rows may stop without a word."""
        if self._rows != self._marks[0][1]:
            self._outbox.touch(self._message)

    def resumed(self, positions: Mapping[str, str]) -> None:
        """Note where the parts stand."""
        self._positions = positions

    def _message(self) -> WorkerMessage:
        lag = None
        if self._event_time is not None:
            lag = max(0.0, self._clock.now() - self._event_time)
        status = replace(
            self._status,
            counters=Counters(
                rows_read=self._rows_read,
                rows_committed=self._rows,
                bytes_committed=self._bytes,
                units_committed=self._units,
                rows_rejected=self._rejected,
            ),
            positions=self._positions,
            rows_per_second=self._rate(),
            lag_seconds=lag,
        )
        return WorkerMessage("status", status=status)

    def _rate(self) -> float:
        """Return committed rows per second over the last moments: bursts are common, and a rate
        between two of them would say nothing."""
        now, marks = self._clock.monotonic(), self._marks
        if now - marks[-1][0] >= MARK_SECONDS:
            marks.append((now, self._rows))
        while len(marks) > 2 and now - marks[1][0] >= RATE_SECONDS:
            marks.popleft()
        at, rows = marks[0]
        return (self._rows - rows) / (now - at) if now - at >= MARK_SECONDS else 0.0
