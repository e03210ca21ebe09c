"""Reading SQLite: one statement per read, so one snapshot of the file; every value checked."""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mycelial.connectors.sqlite import catalog
from mycelial.connectors.sqlite.connection import connect, main_table
from mycelial.connectors.sqlite.reading import SAMPLES, Selection, select_as, type_from_classes
from mycelial.sdk.envelope import Column, Envelope, Part, Position, SourcePlan
from mycelial.sdk.errors import NotYet, Permanent, PluginError
from mycelial.sdk.kit import cursor as cursors
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import Dialect, quote_name, quote_text
from mycelial.sdk.kit.tablesource import Layout, ReadColumn, TableReader, slices
from mycelial.sdk.kit.types import from_sqlite

if TYPE_CHECKING:
    from arro3.core import RecordBatch, Schema

    from mycelial.connectors.sqlite.config import SqliteSourceConfig
    from mycelial.sdk.plugin import Context, LifecycleEvent

_HIDDEN_ROWID = "_mycelial_rowid"
_HEAD_ROWS, _TAIL_ROWS = 20_000, 2_000
"""Rows looked at when planning; the read itself checks every value."""


@dataclass(frozen=True, slots=True)
class _Found:
    layout: Layout
    selections: Mapping[str, Selection]
    rowid: str
    row_bytes: int


class SqliteSource:
    """One table, view or query of a SQLite file."""

    def __init__(self, config: SqliteSourceConfig) -> None:
        self._config: Any = config
        self._ctx: Context | None = None
        self._session: Session | None = None
        self._found: _Found | None = None
        self._reader: TableReader | None = None
        self._schema: Schema | None = None

    def plan(self, ctx: Context) -> SourcePlan:
        """Look at the schema, and at the values of the first and last rows."""
        session = self._connect(ctx)
        try:
            found = self._look(session)
            self._check_sample(session, found)
            notes = list(found.layout.notes)
            if session.rows("PRAGMA journal_mode")[0][0] != "wal":
                notes.append("the file is not in WAL mode: its writers wait while it is read")
            return replace(found.layout, notes=tuple(notes)).plan()
        finally:
            session.close()

    def lifecycle(
        self, ctx: Context, event: LifecycleEvent, old: object | None, new: object | None
    ) -> None:
        """Nothing outlives a worker."""

    def open(self, ctx: Context) -> None:
        """Open the file and look at its schema."""
        from mycelial.sdk.kit.arrowtypes import arrow_schema

        self.close()
        self._ctx = ctx
        self._session = self._connect(ctx)
        self._found = self._look(self._session)
        self._schema = arrow_schema(self._found.layout.schema)
        self._reader = TableReader(self._found.layout, self._fetch, self._count_ties)

    def read(
        self, part: Part, resume: Position | None, until: Position | None = None
    ) -> Iterator[Envelope]:
        """Read in one statement what is after `resume`."""
        assert self._reader is not None
        return self._reader.read(part, resume, until)

    def durable(self, part: Part, position: Position) -> None:
        """Nothing to trim."""

    def interrupt(self) -> None:
        """End the read at its next batch; SQLite's driver cannot cancel sooner."""
        session = self._session
        if session is not None:
            session.interrupt()

    def close(self) -> None:
        """Close the file."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _connect(self, ctx: Context) -> Session:
        path = ctx.path(self._config.path, write=False)
        return connect(path, write=False, lock_timeout_seconds=self._config.lock_timeout)

    # Looking.

    def _look(self, session: Session) -> _Found:
        config = self._config
        if config.table:
            table = main_table(config.table)
            shape = catalog.look_at_table(session, table)
            if shape is None:
                raise NotYet(
                    "MYC-SQLITE-024", f"there is no table {table} in {config.path}",
                    fix=_tables_hint(session, table.name),
                )  # fmt: skip
            origin, stream = table.quoted, table.name
        else:
            shape = catalog.look_at_query(session, config.query)
            origin, stream = f"({config.query}\n)", "query"
        key = tuple(config.key) or shape.key
        _check_names(shape, config, key)
        sample = f"(SELECT * FROM {origin} LIMIT {_HEAD_ROWS})"
        wanted = _declared_types(dict(config.columns))
        types = {
            c.name: wanted.get(c.name) or from_sqlite(c.declared) or _seen(session, sample, c.name)
            for c in shape.columns
        }
        selections = {c.name: _selection(c.name, c.declared, types[c.name]) for c in shape.columns}
        columns = [
            ReadColumn(
                Column(c.name, types[c.name], c.nullable and not c.place_in_key),
                f"{selections[c.name].expression} AS {quote_name(c.name)}",
                _literal,
            )
            for c in shape.columns
        ]
        order, unique = _order(shape, config.cursor, key, selections)
        notes: tuple[str, ...] = ()
        if _HIDDEN_ROWID in order:
            hidden = Column(_HIDDEN_ROWID, "int64", nullable=False)
            columns.append(ReadColumn(hidden, shape.rowid, _literal, hidden=True))
            selections = {**selections, _HIDDEN_ROWID: Selection("int64", shape.rowid, "0")}
            notes = ("rows are told apart by rowid: a VACUUM during a run may repeat some",)
        layout = Layout(
            stream, origin, tuple(columns), key, config.cursor, order, unique,
            _estimate(session, origin, shape), notes,
        )  # fmt: skip
        return _Found(layout, selections, shape.rowid, _row_bytes(session, origin, layout))

    def _check_sample(self, session: Session, found: _Found) -> None:
        layout = found.layout
        if layout.cursor and session.rows(
            f"SELECT 1 AS found FROM {layout.origin} "
            f"WHERE {quote_name(layout.cursor)} IS NULL LIMIT 1"
        ):
            raise Permanent(
                "MYC-SQLITE-031",
                f'the cursor column "{layout.cursor}" holds NULLs: such rows would never be read',
                fix="choose a cursor that is NOT NULL, or a query that leaves such rows out",
            )
        places = [f"SELECT *{_rowid_of(found)} FROM {layout.origin} LIMIT {_HEAD_ROWS}"]
        if found.rowid:
            places.append(
                f"SELECT *{_rowid_of(found)} FROM {layout.origin} "
                f"ORDER BY {found.rowid} DESC LIMIT {_TAIL_ROWS}"
            )
        for place in places:
            problem = self._first_bad(session, found, f"({place})")
            if problem is not None:
                raise problem

    def _first_bad(self, session: Session, found: _Found, origin: str) -> Permanent | None:
        """Return the error about the first value that does not fit its column."""
        shown = [c.column for c in found.layout.columns if not c.hidden]
        where = _HIDDEN_ROWID if found.rowid else "0"
        worst: tuple[int, Column, str] | None = None
        for column in shown:
            bad = found.selections[column.name].bad
            rows = session.rows(
                f"SELECT {where} AS place, typeof({quote_name(column.name)}) AS class "
                f"FROM {origin} WHERE {bad} ORDER BY 1 LIMIT 1"
            )
            if rows and (worst is None or rows[0][0] < worst[0]):
                worst = (rows[0][0], column, rows[0][1])
        if worst is None:
            return None
        rowid, column, kind = worst
        at = f" at rowid {rowid}" if found.rowid else ""
        return _does_not_fit(column, f"a {kind} value{at}")

    def _count_ties(self, place: cursors.Place) -> int:
        assert self._session is not None
        assert self._found is not None
        layout = self._found.layout
        rows = self._session.rows(
            f"SELECT count(*) AS n FROM {layout.origin} "
            f"WHERE {quote_name(layout.cursor)} = {_literal(place.values[0])}"
        )
        return int(rows[0][0])

    # Reading.

    def _fetch(self, sql: str) -> Iterator[tuple[RecordBatch, RecordBatch]]:
        assert self._found is not None
        assert self._session is not None
        found, session = self._found, self._session
        try:
            for whole in self._typed(sql):
                for raw in slices(whole, self._limits_rows()):
                    session.check()
                    yield raw, self._convert(raw)
        except PluginError as error:
            if error.problem.code != "MYC-SQLITE-030":
                raise
            # The driver says which class surprised it, not where: look for the row.
            origin = f"(SELECT *{_rowid_of(found)} FROM {found.layout.origin})"
            raise (self._first_bad(session, found, origin) or error) from error

    def _limits_rows(self) -> int:
        assert self._ctx is not None
        return self._ctx.limits.batch_rows

    def _typed(self, sql: str) -> Iterator[RecordBatch]:
        """Yield batches in the raw types of the plan. The driver guesses types from the first
        batch alone; where NULLs mislead it, a row of samples goes first and is taken off."""
        assert self._ctx is not None
        assert self._session is not None
        assert self._found is not None
        limits = self._ctx.limits
        rows = min(limits.batch_rows, max(64, limits.batch_bytes // self._found.row_bytes))
        options = {"adbc.sqlite.query.batch_rows": str(rows)}
        selections = self._found.selections
        raws = [selections[c.column.name].raw for c in self._found.layout.columns]
        wanted = _arrow_types(raws)
        stream = self._session.stream(sql, options)
        first = next(stream, None)
        if first is None:
            return
        if first.schema.types == wanted:
            yield first
            yield from stream
            return
        stream.close()  # type: ignore[attr-defined]
        samples = ", ".join(
            f"{SAMPLES[raw]} AS {quote_name(c.column.name)}"
            for raw, c in zip(raws, self._found.layout.columns, strict=True)
        )
        # LIMIT -1 keeps SQLite from dropping the order of a subquery.
        seeded = f"SELECT {samples} UNION ALL SELECT * FROM ({sql} LIMIT -1)"
        is_first = True
        for batch in self._session.stream(seeded, options):
            if batch.schema.types != wanted:
                raise Permanent("MYC-SQLITE-030", "values of several classes are in one column")
            if is_first:
                batch, is_first = batch.slice(1, batch.num_rows - 1), False  # noqa: PLW2901
            if batch.num_rows:
                yield batch

    def _convert(self, raw: RecordBatch) -> RecordBatch:
        from arro3.core import RecordBatch as Batch

        from mycelial.connectors.sqlite.values import to_type
        from mycelial.sdk.kit.casts import DoesNotFit

        assert self._schema is not None
        try:
            arrays = [
                to_type(name, raw.column(index), self._schema.field(index).type)
                for index, name in enumerate(self._schema.names)
            ]
        except DoesNotFit as error:
            raise self._locate(raw, error.column, error.row) from error
        return Batch.from_arrays(arrays, schema=self._schema)

    def _locate(self, raw: RecordBatch, name: str, row: int) -> Permanent:
        assert self._found is not None
        layout = self._found.layout
        places = [
            f"{'rowid' if n == _HIDDEN_ROWID else n} = "
            f"{raw.column(layout.index(n)).slice(row, 1).to_pylist()[0]}"
            for n in layout.order
            if n != name
        ]
        at = f" where {', '.join(places)}" if places else ""
        return _does_not_fit(layout.columns[layout.index(name)].column, f"a value{at}")


def _rowid_of(found: _Found) -> str:
    return f", {found.rowid} AS {_HIDDEN_ROWID}" if found.rowid else ""


def _arrow_types(names: list[str]) -> list[Any]:
    from mycelial.sdk.kit.arrowtypes import parse_type

    return [parse_type(name) for name in names]


def _does_not_fit(column: Column, what: str) -> Permanent:
    return Permanent(
        "MYC-SQLITE-030",
        f'column "{column.name}" is read as {column.type}, and {what} is not one',
        fix=f"declare what it holds: columns: {{{column.name}: text}}, or clean the value",
    )


def _literal(value: cursors.Value) -> str:
    return str(value) if isinstance(value, int) else quote_text(value, Dialect.SQLITE)


def _declared_types(columns: dict[str, str]) -> dict[str, str]:
    from mycelial.sdk.kit.arrowtypes import parse_type, type_name

    found: dict[str, str] = {}
    for name, text in columns.items():
        try:
            found[name] = type_name(parse_type(text))
        except ValueError as error:
            raise _no_such_type(name, text) from error
    return found


def _selection(name: str, declared: str, arrow: str) -> Selection:
    selection = select_as(name, declared, arrow)
    if selection is None:
        raise _no_such_type(name, arrow)
    return selection


def _no_such_type(name: str, text: str) -> Permanent:
    return Permanent(
        "MYC-SQLITE-032",
        f'columns: "{name}" is declared as {text!r}, which SQLite cannot give',
        fix="write bool, int64, float64, utf8, binary, date32, time64[us], timestamp[us], "
        "timestamp[us, tz=UTC] or decimal128(p, s)",
    )


def _seen(session: Session, sample: str, name: str) -> str:
    """Return the type of an undeclared column by the values in its first rows."""
    rows = session.rows(f"SELECT DISTINCT typeof({quote_name(name)}) AS class FROM {sample}")
    classes = {str(kind) for (kind,) in rows}
    found = type_from_classes(classes)
    if found is None:
        raise Permanent(
            "MYC-SQLITE-033",
            f'column "{name}" has no declared type and holds {", ".join(sorted(classes))}',
            fix=f"declare one: columns: {{{name}: text}}",
        )
    return found


def _check_names(shape: catalog.Shape, config: Any, key: tuple[str, ...]) -> None:
    there = [c.name for c in shape.columns]
    wanted = [*([config.cursor] if config.cursor else []), *key, *dict(config.columns)]
    for name in wanted:
        if name not in there:
            raise Permanent(
                "MYC-SQLITE-025",
                f'"{name}" is no column here',
                fix=f"columns are: {', '.join(there)}",
            )


def _order(
    shape: catalog.Shape, cursor: str, key: tuple[str, ...], selections: Mapping[str, Selection]
) -> tuple[tuple[str, ...], bool]:
    """Return by what rows are ordered, and whether that tells all rows apart."""

    def can_order(name: str) -> bool:
        return selections[name].raw in ("int64", "utf8")

    breaks_ties = key if key and all(can_order(name) for name in key) else ()
    if not breaks_ties and shape.rowid:
        breaks_ties = (_HIDDEN_ROWID,)
    if not cursor:
        return breaks_ties, True
    if not can_order(cursor):
        raise Permanent(
            "MYC-SQLITE-034",
            f'"{cursor}" cannot be a cursor: its values are {selections[cursor].raw}',
            fix="use an integer, text, date or timestamp column",
        )
    if (cursor,) in (key, *shape.unique):
        return (cursor,), True
    rest = tuple(name for name in breaks_ties if name != cursor)
    return (cursor, *rest), bool(breaks_ties)


def _estimate(session: Session, origin: str, shape: catalog.Shape) -> int | None:
    if not shape.rowid:
        return None
    rows = session.rows(f"SELECT coalesce(max({shape.rowid}), 0) AS n FROM {origin}")
    return int(rows[0][0])


def _row_bytes(session: Session, origin: str, layout: Layout) -> int:
    """Return the mean size of the first rows, so that batches keep within their bytes."""
    sizes = " + ".join(
        f"coalesce(octet_length({quote_name(c.column.name)}), 0)"
        for c in layout.columns
        if not c.hidden
    )
    rows = session.rows(
        f"SELECT CAST(coalesce(avg({sizes}), 0) AS INTEGER) AS n "
        f"FROM (SELECT * FROM {origin} LIMIT 200)"
    )
    return max(1, int(rows[0][0]))


def _tables_hint(session: Session, wanted: str) -> str:
    found = session.rows(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE '\\_%' "
        "ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 200"
    )
    names = [str(row[0]) for row in found]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return f"{hint}Tables there: {', '.join(names[:10]) or 'none; check `path`'}"
