"""Reading a table or query in order, resumably: shared by the SQL sources.

A connector describes what it reads (`Layout`) and runs the statements; the flow of envelopes,
positions and barriers is here.
"""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycelial.sdk.envelope import (
    BarrierKind,
    Column,
    Envelope,
    Part,
    Position,
    SourcePlan,
    StreamSchema,
)
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit import cursor as cursors
from mycelial.sdk.kit.sql import names, quote_name

if TYPE_CHECKING:
    from arro3.core import RecordBatch

ORIGIN = "origin"
"""What the table or query is called in the statement."""


@dataclass(frozen=True, slots=True)
class ReadColumn:
    """One column of the result: `expression` selects it, `hidden` ones only order the read.

    `literal` gives the SQL of a position's value, to compare the column with.
    """

    column: Column
    expression: str
    literal: Callable[[cursors.Value], str]
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """What is read: `origin` is what stands after FROM, `order` names the columns by which rows
    come and positions are kept (empty: no order, not resumable), `unique` says that no two rows
    are equal by them."""

    stream: str
    origin: str
    columns: tuple[ReadColumn, ...]
    key: tuple[str, ...] = ()
    cursor: str = ""
    order: tuple[str, ...] = ()
    unique: bool = False
    rows_estimate: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def schema(self) -> StreamSchema:
        """Return the shape of the stream."""
        shown = tuple(c.column for c in self.columns if not c.hidden)
        return StreamSchema(self.stream, shown, self.key, incremental=bool(self.cursor))

    def plan(self) -> SourcePlan:
        """Return what the engine and people are told."""
        notes = list(self.notes)
        if self.cursor:
            notes.append(
                f'rows that are committed later with a "{self.cursor}" below one already read '
                "are not seen"
            )
            if not self.unique:
                notes.append(
                    f'"{self.cursor}" is not unique and the table has no primary key: '
                    "rows may arrive twice; declare `key` to have each once"
                )
        return SourcePlan(
            streams=(self.schema,),
            replayable=self.unique,
            resumable=bool(self.order),
            incremental=bool(self.cursor),
            rows_estimate=self.rows_estimate,
            notes=tuple(notes),
        )

    def index(self, name: str) -> int:
        """Return where a column stands in the result."""
        return next(i for i, c in enumerate(self.columns) if c.column.name == name)

    def select(self, place: cursors.Place, until: cursors.Place, *, inclusive: bool) -> str:
        """Return the statement for the rows after `place`, up to and with `until`."""
        order = [self.columns[self.index(name)] for name in self.order]
        # Qualified, since a bare name in ORDER BY would be the select's own cast of the column.
        quoted = [
            f"{ORIGIN}.{quote_name(name) if not c.hidden else c.expression}"
            for name, c in zip(self.order, order, strict=True)
        ]
        conditions = []
        if self.cursor:
            conditions.append(f"{ORIGIN}.{quote_name(self.cursor)} IS NOT NULL")
        for bound, operator in ((place, ">=" if inclusive else ">"), (until, "<=")):
            if bound.values and order:
                literals = [c.literal(v) for c, v in zip(order, bound.values, strict=False)]
                if len(literals) != len(order):
                    raise self._other_order(bound)
                conditions.append(cursors.comparison(quoted, literals, operator))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        by = f" ORDER BY {', '.join(quoted)}" if quoted else ""
        fields = ", ".join(c.expression if not c.hidden else
                           f"{c.expression} AS {quote_name(c.column.name)}"
                           for c in self.columns)  # fmt: skip
        return f"SELECT {fields} FROM {self.origin} AS {ORIGIN}{where}{by}"

    def _other_order(self, place: cursors.Place) -> Permanent:
        return Permanent(
            "MYC-TYPE-022",
            f"the position has {len(place.values)} values, the read is ordered by "
            f"{names(self.order)}",
            fix="the cursor or key has changed: reset the pipeline, or `mycelial state set`",
        )


Fetch = Callable[[str], Iterator["tuple[RecordBatch, RecordBatch]"]]
"""Runs a statement and yields pairs: the raw batch, from which positions come, and the typed
batch of the columns that are not hidden, with the same rows."""


class TableReader:
    """Makes envelopes of one layout. `count_ties` tells how many rows have a cursor value."""

    def __init__(
        self, layout: Layout, fetch: Fetch, count_ties: Callable[[cursors.Place], int]
    ) -> None:
        self._layout = layout
        self._fetch = fetch
        self._count_ties = count_ties
        self._seq = 0

    def read(
        self, part: Part, resume: Position | None, until: Position | None
    ) -> Iterator[Envelope]:
        """Yield what `Source.read` promises."""
        place, stop = cursors.decode(resume), cursors.decode(until)
        if self._layout.cursor:
            return self._incremental(part, place, stop)
        return self._snapshot(part, place, stop)

    def _incremental(
        self, part: Part, place: cursors.Place, until: cursors.Place
    ) -> Iterator[Envelope]:
        # Without a tie-breaker rows at the boundary are read again, but only once there are more.
        inclusive = (
            not self._layout.unique and bool(place.values) and self._count_ties(place) != place.ties
        )
        sql = self._layout.select(place, until, inclusive=inclusive)
        end = cursors.encode_cursor(place.values, place.ties)
        ties, last = (0 if inclusive else place.ties), place.values
        for raw, batch in self._fetch(sql):
            values = self._values(raw)
            if not self._layout.unique:
                trailing = cursors.trailing_ties(
                    raw.column(self._layout.index(self._layout.cursor))
                )
                whole = trailing == raw.num_rows and values == last
                ties, last = (ties + trailing if whole else trailing), values
            end = cursors.encode_cursor(values, ties)
            yield self._envelope(part, end, batch=batch)
        yield self._envelope(part, end, barrier=BarrierKind.FLUSH)

    def _snapshot(
        self, part: Part, place: cursors.Place, until: cursors.Place
    ) -> Iterator[Envelope]:
        if place.ended or not place.values:
            run = place.run + 1 if place.ended or not place.run else place.run
            place = cursors.Place(run=run)
            start = cursors.encode_run(run, None)
            yield self._envelope(part, start, barrier=BarrierKind.RUN_START)
        bound = until if until.run == place.run else cursors.Place()
        for raw, batch in self._fetch(self._layout.select(place, bound, inclusive=False)):
            end = cursors.encode_run(place.run, self._values(raw) or None)
            yield self._envelope(part, end, batch=batch)
        if not bound.values:
            end = cursors.encode_run(place.run, None, ended=True)
            yield self._envelope(part, end, barrier=BarrierKind.RUN_END)

    def _values(self, raw: RecordBatch) -> tuple[cursors.Value, ...]:
        order: Sequence[str] = self._layout.order
        return tuple(
            cursors.last_value(name, raw.column(self._layout.index(name))) for name in order
        )

    def _envelope(
        self,
        part: Part,
        end: Position,
        *,
        batch: RecordBatch | None = None,
        barrier: BarrierKind | None = None,
    ) -> Envelope:
        self._seq += 1
        nbytes = 0 if batch is None else int(batch.nbytes)
        stream = self._layout.stream
        return Envelope(part, self._seq, end, stream, batch=batch, barrier=barrier, nbytes=nbytes)


def slices(batch: RecordBatch, rows: int) -> Iterator[RecordBatch]:
    """Yield a batch in pieces of at most `rows`, without copying."""
    if batch.num_rows <= rows:
        if batch.num_rows:
            yield batch
        return
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, min(rows, batch.num_rows - start))
