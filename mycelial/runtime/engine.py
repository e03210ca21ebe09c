"""The heart: read, transform, write, commit, journal, durable. One session, until it fails.

```
reader thread: source.read -> transforms -> ByteQueue
writer thread: -> destination.write ... destination.commit -> journal fsync -> source.durable
```

The order of the last three is fixed here and nowhere else (I1, I2). A session ends with an
exception or with the beat; what to do about it is the runner's business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from mycelial.kernel.clock import Clock
from mycelial.kernel.ports import Log
from mycelial.runtime.ack import AckLedger
from mycelial.runtime.blame import blaming
from mycelial.runtime.context import WorkerContext
from mycelial.runtime.faults import Faults
from mycelial.runtime.inbox import Halted, Orders
from mycelial.runtime.journal import Entry, Journal
from mycelial.runtime.plan import Parts, Planned, require_lossless
from mycelial.runtime.queue import ByteQueue
from mycelial.runtime.rate import RowRate
from mycelial.runtime.reader import BeatEnd, Failure, Item, Opened, Passed, Reader, rejected
from mycelial.runtime.reporter import Reporter
from mycelial.runtime.resume import Remembered, Resume, ResumeKind, decide_resume
from mycelial.runtime.units import (
    OpenUnit,
    UnitBounds,
    bounds_for,
    closes_after,
    closes_before,
    grown,
    limits_for,
    seconds_left,
)
from mycelial.schemas.desired import PipelineSpec
from mycelial.sdk.envelope import BarrierKind, Checkpoint, FenceToken, Part, Position
from mycelial.sdk.errors import Permanent, Transient

IDLE_COMMIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ports:
    """What a session is given."""

    ctx: WorkerContext
    fence: FenceToken
    journal: Journal
    orders: Orders
    reporter: Reporter
    clock: Clock
    faults: Faults
    log: Log


class WedgedPlugin(Exception):
    """A plugin's call does not return although it was interrupted: only a new process helps."""


class Session:
    """One opening of both ends. Used by the writer thread; not reusable after `close`."""

    def __init__(self, spec: PipelineSpec, parts: Parts, planned: Planned, ports: Ports) -> None:
        self._spec, self._parts, self._planned, self._ports = spec, parts, planned, ports
        self._destination, self._source = parts.destination, parts.source
        at_barriers_only = parts.holds_back or not planned.source.resumable
        self._bounds: UnitBounds = bounds_for(
            spec.delivery, planned.destination, at_barriers_only=at_barriers_only
        )
        rate = spec.rate_rows_per_second
        self._ctx = ports.ctx.with_limits(limits_for(self._bounds, rate))
        self._queue: ByteQueue[Passed] = ByteQueue(max_bytes=spec.delivery.queue_bytes)
        self._reader = Reader(
            parts=parts,
            planned=planned,
            ctx=self._ctx,
            out=self._queue,
            bounds=self._bounds,
            rate=None if rate is None else RowRate(rate),
            clock=ports.clock,
            faults=ports.faults,
            log=ports.log,
        )
        self._unit: OpenUnit | None = None
        self._event_time: float | None = None
        self._seen: dict[Part, Position] = {}
        self._ends_run: dict[Part, bool] = {}
        self._committed_at: dict[Part, float] = {}
        self._is_staged = False

    def open(self) -> None:
        """Open both ends and settle where to go on.

        Raises: Fenced, CheckpointRegressed, and whatever the plugins raise.
        """
        ports = self._ports
        ports.orders.subscribe(self._on_order)
        with blaming("spec.destination"):
            held = self._destination.open(self._ctx, self._spec.scope, ports.fence)
        decisions = {
            part: decide_resume(
                part,
                held.get(part),
                self._remembered(part),
                stores_positions=self._planned.destination.exactly_once,
                replayable=self._planned.source.replayable,
            )
            for part in dict.fromkeys((*self._planned.source.parts, *held))
        }
        for part, resume in decisions.items():
            self._settle(part, resume)
        self._ledger = AckLedger(
            {
                part: (resume.seq, resume.position)
                for part, resume in decisions.items()
                if resume.position is not None
            }
        )
        self._ends_run = {part: resume.ends_run for part, resume in decisions.items()}
        ports.reporter.resumed(self._ledger.positions())
        with blaming("spec.destination"):
            self._destination.migrate(self._planned.streams)
        self._reader.start()
        self._expect_opened()
        for part, resume in decisions.items():
            if resume.position is not None:
                # A crash may have come between journal and durable: saying it again is harmless.
                self._source.durable(part, resume.position)

    def standing(self) -> Mapping[Part, tuple[int, bool]]:
        """Return the last committed unit of every part, and whether it ended a run."""
        return {
            part: (self._ledger.standing(part).committed, self._ends_run.get(part, False))
            for part in self._planned.source.parts
        }

    def beat(self, parts: Iterable[Part]) -> bool:
        """Read the parts until they return, committing as units close; nothing stays open.

        Returns False when the host's wish for a pause broke it off. Raises: Halted.
        """
        self._reader.beat(
            {part: self._seen.get(part, self._ledger.standing(part).position) for part in parts}
        )
        while True:
            item = self._next()
            match item:
                case None:
                    self._close_if_complete(None)
                case Item():
                    self._accept(item)
                case BeatEnd():
                    self._close_beat()
                    return item.is_complete
                case Failure():
                    self._fail(item.error)
                case Opened():
                    continue
                case _:
                    assert_never(item)

    def finish(self) -> None:
        """Commit positions that moved without rows: the session is about to end in order."""
        self._commit_idle(force=True)

    def close(self) -> None:
        """Drop what is staged and close both ends. Raises: WedgedPlugin."""
        self._ports.orders.subscribe(None)
        has_let_go = self._reader.close()
        if self._is_staged or self._unit is not None:
            with contextlib.suppress(Exception):  # the failure that led here is the one to report
                self._destination.abort()
        try:
            self._destination.close()
        except Exception as error:  # nothing depends on it any more
            self._ports.log.warning("closing the destination failed", error=repr(error))
        if not has_let_go:
            raise WedgedPlugin("the source does not return from a call it was asked to leave")

    def _remembered(self, part: Part) -> Remembered | None:
        entry = self._ports.journal.latest.get((self._spec.scope, part))
        if entry is None:
            return None
        return Remembered(entry.seq, entry.position, entry.rows, entry.ends_run)

    def _settle(self, part: Part, resume: Resume) -> None:
        """Write down an adopted position, and say aloud whatever was not plain agreement."""
        reporter = self._ports.reporter
        if resume.kind is ResumeKind.ADOPT and resume.position is not None:
            self._append(part, resume.seq, resume.position, 0, resume.ends_run)
            reporter.event("CheckpointAdopted", f"part {part}: {resume.why}")
        elif resume.kind is ResumeKind.REPLAY:
            reporter.event(
                "CheckpointReplayed",
                f"part {part}: {resume.why}; reading again from the destination's position",
                severity="warning",
            )

    def _expect_opened(self) -> None:
        while True:
            item = self._next()
            if isinstance(item, Failure):
                raise item.error
            if isinstance(item, Opened):
                return

    def _next(self) -> Passed | None:
        item = self._queue.get(
            seconds_left(self._unit, self._bounds, now=self._ports.clock.monotonic())
        )
        halt = self._ports.orders.halt
        if halt is not None:
            raise Halted(halt)
        return item

    def _accept(self, item: Item) -> None:
        envelope = item.envelope
        if self._unit is not None and closes_before(self._unit, envelope, self._bounds):
            self._commit(self._unit)
        if item.streams is not None:
            self._change_schema(item)
        self._ports.reporter.read(item.rows_read)
        if envelope.batch is not None or envelope.barrier is not None:
            self._is_staged = True
            with blaming("spec.destination"):
                rejects = self._destination.write(envelope)
                self._ports.faults.step("write")
                if rejects:
                    self._ports.reporter.rejected(len(rejects))
                    raise rejected(envelope, rejects, by="the destination")
            if envelope.event_time is not None:
                self._event_time = envelope.event_time
        unit = grown(
            self._unit, envelope, now=self._ports.clock.monotonic(), closable=item.closable
        )
        if item.closable:
            self._seen[unit.part] = unit.position
        if unit.is_empty and item.closable:
            self._unit = None
            self._commit_idle(force=False)
            return
        self._unit = unit
        self._close_if_complete(envelope.barrier)

    def _close_if_complete(self, barrier: BarrierKind | None) -> None:
        now = self._ports.clock.monotonic()
        if self._unit is not None and closes_after(
            self._unit, self._bounds, barrier=barrier, now=now
        ):
            self._commit(self._unit)

    def _close_beat(self) -> None:
        """Commit what the beat left open, unless it is a run that cannot be resumed inside."""
        if self._unit is None:
            return
        broken_off = (
            not self._planned.source.resumable
            and self._unit.has_barrier
            and not self._unit.ends_run
        )
        if broken_off:
            raise Transient("MYC-RUN-024", "the source ended in the middle of a snapshot run")
        self._commit(self._unit)

    def _fail(self, error: BaseException) -> None:
        """Keep what a failing source delivered in order, so that a flaky one gets ahead."""
        unit = self._unit
        if (
            isinstance(error, Transient)
            and unit is not None
            and unit.closable
            and unit.rows
            and not self._bounds.at_barriers_only
        ):
            self._commit(unit)
        raise error

    def _change_schema(self, item: Item) -> None:
        """Plan again downstream; a lossy result stops here with the position unmoved."""
        streams = item.streams or ()
        with blaming("spec.destination"):
            plan = self._destination.plan(self._ctx, streams)
            require_lossless(self._spec, plan)
            self._destination.migrate(streams)
        self._ports.reporter.event("SchemaChanged", f"the shape of {item.envelope.stream} changed")

    def _commit_idle(self, *, force: bool) -> None:
        """Store positions that moved without rows, rarely, so that idle logs can be trimmed."""
        if self._bounds.at_barriers_only:
            return
        now = self._ports.clock.monotonic()
        for part, position in tuple(self._seen.items()):
            if position == self._ledger.standing(part).position:
                continue
            waited = now - self._committed_at.setdefault(part, now)
            if force or waited >= IDLE_COMMIT_SECONDS:
                self._commit(
                    OpenUnit(part, position, now, ends_run=self._ends_run.get(part, False))
                )

    def _commit(self, unit: OpenUnit) -> None:
        """Commit one unit, in the one order that loses nothing."""
        ports, part, position = self._ports, unit.part, unit.position
        checkpoint = Checkpoint(
            scope=self._spec.scope,
            part=part,
            fence=ports.fence,
            seq=self._ledger.next_seq(part),
            position=position,
            rows=unit.rows,
            ends_run=unit.ends_run,
        )
        ports.faults.step("before_commit")
        with (
            ports.orders.commit_lock
        ):  # no interrupt from here on: it could make the outcome unknown
            if ports.orders.halt is not None:
                raise Halted(ports.orders.halt)
            with blaming("spec.destination"):
                receipt = self._destination.commit(checkpoint)
        self._unit, self._is_staged = None, False
        ports.faults.step("after_commit")
        self._ledger.committed(checkpoint, receipt)
        self._append(part, checkpoint.seq, position, unit.rows, unit.ends_run)
        self._ledger.journaled(part, checkpoint.seq)
        ports.faults.step("journal")
        self._source.durable(part, position)  # I1: only now may the source forget
        self._ledger.durable(part, checkpoint.seq)
        ports.faults.step("durable")
        self._seen[part] = position
        self._ends_run[part] = unit.ends_run
        self._committed_at[part] = ports.clock.monotonic()
        ports.reporter.committed(
            unit.rows, receipt.bytes or unit.bytes, self._ledger.positions(), self._event_time
        )

    def _append(self, part: Part, seq: int, position: Position, rows: int, ends_run: bool) -> None:
        entry = Entry(self._spec.scope, part, seq, position, self._ports.fence, rows, ends_run)
        try:
            self._ports.journal.append(entry)
        except OSError as error:
            raise Transient(
                "MYC-RUN-032",
                f"the journal cannot be written: {error.strerror}",
                fix="free space in the daemon's state directory",
            ) from error

    def _on_order(self) -> None:
        """Called from the control thread: get a blocked writer or reader moving."""
        if self._ports.orders.halt is not None:
            self._source.interrupt()
            lock = self._ports.orders.commit_lock
            if lock.acquire(blocking=False):
                try:
                    self._destination.interrupt()
                finally:
                    lock.release()
        else:
            self._reader.finish()
        self._queue.wake()


def require_supported(planned: Planned) -> None:
    """Refuse plans that no engine could keep. Raises: Permanent."""
    if not planned.source.parts:
        raise Permanent(
            "MYC-RUN-013",
            "the source has no parts to read",
            fix="this is a defect of the source plugin; report it",
        )
