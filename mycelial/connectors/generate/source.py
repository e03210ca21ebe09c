"""Rows made from a seed: for demos, tests and load. Every row is a function of (seed, number)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mycelial.connectors.generate.rows import TYPES, make_batch
from mycelial.kernel.canonical import canonical_json
from mycelial.sdk.envelope import (
    BarrierKind,
    Column,
    Envelope,
    Part,
    Position,
    SourcePlan,
    StreamSchema,
)
from mycelial.sdk.errors import Interrupted, Permanent
from mycelial.sdk.plugin import Context, LifecycleEvent

if TYPE_CHECKING:
    from mycelial.connectors.generate.config import GenerateConfig


class GenerateSource:
    """Yields rows n+1, n+2, ... after position {"n": n}."""

    def __init__(self, settings: GenerateConfig) -> None:
        self._settings = settings
        self._ctx: Context | None = None
        self._interrupted = threading.Event()

    def plan(self, ctx: Context) -> SourcePlan:  # noqa: D102
        rows = self._settings.rows
        return SourcePlan(
            streams=(self._stream(),),
            incremental=True,
            endless=rows is None,
            rows_estimate=rows,
            notes=() if rows is not None else ("endless: it stops when the workflow does",),
        )

    def lifecycle(
        self, ctx: Context, event: LifecycleEvent, old: object | None, new: object | None
    ) -> None:
        """Made rows need nothing."""

    def _stream(self) -> StreamSchema:
        columns = tuple(
            Column(name, TYPES[spec.kind]) for name, spec in self._settings.columns.items()
        )
        return StreamSchema(self._settings.stream, columns, incremental=True)

    def open(self, ctx: Context) -> None:  # noqa: D102
        self._ctx = ctx
        self._interrupted.clear()

    def read(  # noqa: D102
        self, part: Part, resume: Position | None, until: Position | None = None
    ) -> Iterator[Envelope]:
        assert self._ctx is not None, "open() comes first"
        done, goal = _number(resume), self._settings.rows if until is None else _number(until)
        step = min(self._settings.batch_rows, self._ctx.limits.batch_rows)
        began, first, seq = self._ctx.clock.monotonic(), done, 0
        while goal is None or done < goal:
            count = step if goal is None else min(step, goal - done)
            batch = make_batch(
                self._stream(),
                self._settings.columns,
                seed=self._settings.seed,
                first=done,
                count=count,
            )
            done, seq = done + count, seq + 1
            nbytes = int(batch.nbytes)
            yield Envelope(part, seq, _position(done), self._settings.stream, batch, nbytes=nbytes)
            self._pace(began, done - first)
        if until is None:
            flush = BarrierKind.FLUSH
            yield Envelope(part, seq + 1, _position(done), self._settings.stream, barrier=flush)

    def _pace(self, began: float, rows: int) -> None:
        """Wait until `rows` are due at the set rate; wake up for an interrupt."""
        assert self._ctx is not None
        if self._settings.rate is not None and not self._interrupted.is_set():
            due = began + rows / self._settings.rate
            wait = due - self._ctx.clock.monotonic()
            if wait > 0:
                self._interrupted.wait(wait)
        if self._interrupted.is_set():
            raise Interrupted

    def durable(self, part: Part, position: Position) -> None:
        """Made rows can always be made again."""

    def interrupt(self) -> None:  # noqa: D102
        self._interrupted.set()

    def close(self) -> None:  # noqa: D102
        self._ctx = None


def _number(position: Position | None) -> int:
    if position is None:
        return 0
    try:
        return int(json.loads(position)["n"])
    except (ValueError, KeyError, TypeError) as error:
        raise Permanent(
            "MYC-GEN-001", "the position is no row number", fix='set {"n": 0} or higher'
        ) from error


def _position(done: int) -> Position:
    return Position(canonical_json({"n": done}).decode())
