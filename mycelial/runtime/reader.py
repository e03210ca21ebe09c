"""The reading thread: source and transforms, into the queue."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace

from mycelial.kernel.clock import Clock
from mycelial.kernel.ports import Log
from mycelial.runtime.blame import blaming
from mycelial.runtime.faults import Faults
from mycelial.runtime.plan import Parts, Planned, plan_streams
from mycelial.runtime.queue import ByteQueue, QueueClosed
from mycelial.runtime.rate import RowRate
from mycelial.runtime.units import UnitBounds
from mycelial.sdk.envelope import (
    BarrierKind,
    Envelope,
    Part,
    Position,
    Reject,
    StreamSchema,
)
from mycelial.sdk.errors import Interrupted, Permanent, Transient
from mycelial.sdk.plugin import Context, Transform

ROTATE_AFTER_ENVELOPES = 64


@dataclass(frozen=True, slots=True)
class Item:
    """One envelope for the writer. `closable`: a unit may end here. `streams` come with SCHEMA."""

    envelope: Envelope
    closable: bool
    rows_read: int
    streams: tuple[StreamSchema, ...] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The source is open."""


@dataclass(frozen=True, slots=True)
class BeatEnd:
    """The beat is over; not complete when it was broken off to drain."""

    is_complete: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """The reader has ended."""

    error: BaseException


Passed = Item | Opened | BeatEnd | Failure


class Reader:
    """Owns the source and the transforms; `finish` and `close` are called by other threads."""

    def __init__(
        self,
        *,
        parts: Parts,
        planned: Planned,
        ctx: Context,
        out: ByteQueue[Passed],
        bounds: UnitBounds,
        rate: RowRate | None,
        clock: Clock,
        faults: Faults,
        log: Log,
    ) -> None:
        self._source, self._ctx, self._out = parts.source, ctx, out
        self._planned, self._bounds, self._rate = planned, bounds, rate
        self._clock, self._faults, self._log = clock, faults, log
        self._chain = Chain(parts.transforms, planned.source.streams)
        self._holds_back = parts.holds_back
        self._held = 0
        self._finishing = False
        self._orders: queue.SimpleQueue[Mapping[Part, Position | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)

    def start(self) -> None:
        """Open the source; `Opened` or `Failure` comes through the queue."""
        self._thread.start()

    def beat(self, resume: Mapping[Part, Position | None]) -> None:
        """Read these parts from these positions; `BeatEnd` or `Failure` comes last."""
        self._orders.put(resume)

    def finish(self) -> None:
        """End the beat at the next place where a unit may close."""
        self._finishing = True
        if self._planned.source.resumable:
            self._source.interrupt()

    def close(self, timeout_seconds: float = 10.0) -> bool:
        """End the thread and close the source. Returns False when a plugin does not let go."""
        self._finishing = True
        self._out.close()
        self._orders.put(None)
        if self._thread.is_alive():
            self._source.interrupt()
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with blaming("spec.source"):
                self._source.open(self._ctx)
            self._chain.open(self._ctx)
            self._out.put(Opened(), 0)
            while (resume := self._orders.get()) is not None:
                with blaming("spec.source"):
                    self._read_all(resume)
                self._out.put(BeatEnd(not self._finishing), 0)
        except QueueClosed:
            pass
        except BaseException as error:  # the writer decides what it means
            with contextlib.suppress(QueueClosed):
                self._out.put(Failure(error), 0)
        finally:
            self._chain.close()
            try:
                self._source.close()
            except Exception as error:  # nothing depends on it any more
                self._log.warning("closing the source failed", error=repr(error))

    def _read_all(self, resume: Mapping[Part, Position | None]) -> None:
        if self._planned.source.endless and len(resume) > 1:
            self._read_in_turn(resume)
            return
        for part, position in resume.items():
            if self._finishing:
                return
            with self._reading(part, position) as envelopes:
                for envelope in envelopes:
                    self._pass_on(envelope)
                    if self._may_finish(envelope):
                        break
            self._flush_held(None)

    def _read_in_turn(self, resume: Mapping[Part, Position | None]) -> None:
        """Share one thread between endless parts: each yields a heartbeat when it is idle."""
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(self._reading(*at)) for at in resume.items()]
            while waiting and not self._finishing:
                iterator = waiting.pop(0)
                for _ in range(ROTATE_AFTER_ENVELOPES):
                    envelope = next(iterator, None)
                    if envelope is None:
                        break
                    self._pass_on(envelope)
                    if self._finishing or envelope.rows == 0:
                        break
                self._flush_held(None)
                if envelope is not None:
                    waiting.append(iterator)

    @contextlib.contextmanager
    def _reading(self, part: Part, position: Position | None) -> Generator[Iterator[Envelope]]:
        iterator = iter(self._source.read(part, position))
        try:
            yield iterator
        except Interrupted:
            if not self._finishing:
                raise Transient(
                    "MYC-RUN-023", "the source was interrupted without being asked to end"
                ) from None
        finally:
            close: Callable[[], None] | None = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _may_finish(self, envelope: Envelope) -> bool:
        if not self._finishing:
            return False
        return self._planned.source.resumable or envelope.barrier in (
            BarrierKind.RUN_END,
            BarrierKind.FLUSH,
        )

    def _pass_on(self, envelope: Envelope) -> None:
        self._faults.step("read")
        group = self._chain.apply(envelope)
        if self._chain.is_long:
            self._faults.step("transform")
        rows = envelope.rows
        if self._rate is not None and rows:
            delay = self._rate.take(rows, self._clock.monotonic())
            if delay > 0:
                self._out.pause(delay)
        streams = self._chain.streams if envelope.barrier is BarrierKind.SCHEMA else None
        last = len(group) - 1
        for index, item in enumerate(group):
            # What a transform lets go of at a barrier still has the shape from before it.
            is_last = index == last
            passed = Item(item, is_last, rows if is_last else 0, streams if is_last else None)
            self._out.put(passed, item.nbytes)
        if self._holds_back:
            self._held = 0 if envelope.barrier else self._held + rows
            if self._held >= self._bounds.rows:
                self._flush_held(envelope)
            self._last = envelope

    def _flush_held(self, envelope: Envelope | None) -> None:
        """Make the transforms let go of what they hold, so that a unit can close."""
        last = envelope or getattr(self, "_last", None)
        if self._holds_back and self._held and last is not None:
            self._held = 0
            flush = replace(last, batch=None, barrier=BarrierKind.FLUSH, schema=None, nbytes=0)
            self._pass_on(flush)


class Chain:
    """The transforms, as one step that keeps positions whole."""

    def __init__(
        self, transforms: tuple[Transform, ...], streams: tuple[StreamSchema, ...]
    ) -> None:
        self._transforms = transforms
        self._inputs = streams
        self.streams = streams
        self._opened: list[Transform] = []

    @property
    def is_long(self) -> bool:
        """True when there is any transform."""
        return bool(self._transforms)

    def open(self, ctx: Context) -> None:
        """Plan (a fresh transform knows no shapes) and open each."""
        self.streams = plan_streams(self._transforms, self._inputs)
        for transform in self._transforms:
            transform.open(ctx)
            self._opened.append(transform)

    def close(self) -> None:
        """Close what was opened; the first failure is as good as none."""
        for transform in self._opened:
            with contextlib.suppress(Exception):
                transform.close()
        self._opened.clear()

    def apply(self, envelope: Envelope) -> list[Envelope]:
        """Return what one envelope becomes: at least one, and the last carries its `end`.

        Only after the last may a unit close: a position before it would replay a part of the
        rows, one after it would lose them (I2). Raises: Permanent at the first reject.
        """
        if envelope.barrier is BarrierKind.SCHEMA and envelope.schema is not None:
            envelope = self._reshape(envelope, envelope.schema)
        group = [envelope]
        for index, transform in enumerate(self._transforms):
            with blaming(f"spec.transforms[{index}]"):
                group = [made for item in group for made in self._step(transform, item)]
        if not group:
            return [replace(envelope, batch=None, barrier=None, schema=None, nbytes=0)]
        group = [_measured(item) for item in group]
        if group[-1].end != envelope.end:
            group[-1] = replace(group[-1], end=envelope.end)
        return group

    def _step(self, transform: Transform, envelope: Envelope) -> Iterator[Envelope]:
        if envelope.batch is not None:
            outputs = transform.apply(envelope)
        elif envelope.barrier is not None or transform.determinism == "stateful":
            outputs = transform.flush(envelope)
        else:
            yield envelope
            return
        for output in outputs:
            if output.rejects:
                raise rejected(envelope, output.rejects, by="a transform")
            yield output.envelope

    def _reshape(self, envelope: Envelope, schema: StreamSchema) -> Envelope:
        known = {stream.name: stream for stream in self._inputs} | {schema.name: schema}
        self._inputs = tuple(known.values())
        self.streams = plan_streams(self._transforms, self._inputs)
        after = plan_streams(self._transforms, (schema,)) if self._transforms else (schema,)
        return replace(envelope, schema=after[0] if after else schema)


def rejected(envelope: Envelope, rejects: tuple[Reject, ...], *, by: str) -> Permanent:
    """Return the error that stops a pipeline at a refused row."""
    first = rejects[0]
    more = f" (and {len(rejects) - 1} more in this batch)" if len(rejects) > 1 else ""
    stream = f' of stream "{envelope.stream}"' if envelope.stream else ""
    return Permanent(
        first.code,
        f"row {first.row} of the batch ending at {envelope.end}, part {envelope.part}{stream}, "
        f"was refused by {by}: {first.message}{more}",
        fix="correct the row at its source, or drop or cast it in a transform; "
        "the position has not moved",
    )


def _measured(envelope: Envelope) -> Envelope:
    if envelope.nbytes or envelope.batch is None:
        return envelope
    return replace(envelope, nbytes=int(getattr(envelope.batch, "nbytes", 0)))
