"""Reading PostgreSQL: one COPY per read, so one snapshot of the data."""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mycelial.connectors.postgres import catalog
from mycelial.connectors.postgres.connection import connect
from mycelial.sdk.envelope import Column, Envelope, Part, Position, SourcePlan
from mycelial.sdk.errors import NotYet, Permanent
from mycelial.sdk.kit import cursor as cursors
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import Dialect, parse_table, quote_name, quote_text
from mycelial.sdk.kit.tablesource import ORIGIN, Layout, ReadColumn, TableReader, slices
from mycelial.sdk.kit.types import from_postgres, postgres_type, short_postgres_type

if TYPE_CHECKING:
    from arro3.core import RecordBatch, Schema

    from mycelial.connectors.postgres.config import PostgresSourceConfig
    from mycelial.sdk.plugin import Context, LifecycleEvent


_EPOCHS_APART_DAYS = 10_957
"""From 1970, where Arrow counts from, to 2000, where PostgreSQL does."""


class PostgresSource:
    """One table or query of a PostgreSQL database."""

    def __init__(self, config: PostgresSourceConfig) -> None:
        self._config: Any = config
        self._ctx: Context | None = None
        self._session: Session | None = None
        self._layout: Layout | None = None
        self._reader: TableReader | None = None
        self._schema: Schema | None = None

    def plan(self, ctx: Context) -> SourcePlan:
        """Look into the catalog."""
        session = connect(self._config, ctx, "plan")
        try:
            layout = self._look(session)
            if layout.cursor:
                self._refuse_nulls(session, layout)
            return layout.plan()
        finally:
            session.close()

    def lifecycle(
        self, ctx: Context, event: LifecycleEvent, old: object | None, new: object | None
    ) -> None:
        """Nothing outlives a worker."""

    def open(self, ctx: Context) -> None:
        """Connect and look at what is there now."""
        from mycelial.sdk.kit.arrowtypes import arrow_schema

        self.close()
        self._ctx = ctx
        self._session = connect(self._config, ctx, "read")
        self._layout = self._look(self._session)
        self._schema = arrow_schema(self._layout.schema)
        self._reader = TableReader(self._layout, self._fetch, self._count_ties)

    def read(
        self, part: Part, resume: Position | None, until: Position | None = None
    ) -> Iterator[Envelope]:
        """Read in one statement what is after `resume`."""
        assert self._reader is not None
        return self._reader.read(part, resume, until)

    def durable(self, part: Part, position: Position) -> None:
        """Nothing to trim."""

    def interrupt(self) -> None:
        """Cancel the running statement."""
        session = self._session
        if session is not None:
            session.interrupt()

    def close(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _look(self, session: Session) -> Layout:
        config = self._config
        if config.table:
            table = parse_table(config.table)
            found = catalog.table_columns(session, table)
            if not found:
                raise NotYet(
                    "MYC-PG-023", f"there is no table {table}", fix="check `table` and its schema"
                )
            origin, stream = table.quoted, table.name
            key = catalog.primary_key(session, table)
            uniques = catalog.unique_keys(session, table)
            estimate = catalog.rows_estimate(session, table)
        else:
            found = catalog.query_columns(session, config.query)
            origin, stream = f"({config.query}\n)", "query"
            key, uniques, estimate = (), [], None
        key = tuple(config.key) or key
        columns = tuple(_read_column(column, dict(config.columns)) for column in found)
        _check_names(columns, config, key)
        nullable = {c.column.name for c in columns if c.column.nullable}
        alone = {unique[0] for unique in uniques if len(unique) == 1} - nullable
        order, unique = _order(config.cursor, key, columns, alone)
        return Layout(stream, origin, columns, key, config.cursor, order, unique, estimate)

    def _refuse_nulls(self, session: Session, layout: Layout) -> None:
        cursor = quote_name(layout.cursor)
        if session.rows(
            f"SELECT 1 AS found FROM {layout.origin} AS {ORIGIN} WHERE {cursor} IS NULL LIMIT 1"
        ):
            raise Permanent(
                "MYC-PG-030",
                f'the cursor column "{layout.cursor}" holds NULLs: such rows would never be read',
                fix="choose a cursor that is NOT NULL, or a query that leaves such rows out",
            )

    def _count_ties(self, place: cursors.Place) -> int:
        assert self._layout is not None
        assert self._session is not None
        layout = self._layout
        column = layout.columns[layout.index(layout.cursor)]
        rows = self._session.rows(
            f"SELECT count(*) AS n FROM {layout.origin} AS {ORIGIN} "
            f"WHERE {quote_name(layout.cursor)} = {column.literal(place.values[0])}"
        )
        return int(rows[0][0])

    def _fetch(self, sql: str) -> Iterator[tuple[RecordBatch, RecordBatch]]:
        from mycelial.sdk.kit.casts import cast_batch

        assert self._ctx is not None
        assert self._session is not None
        assert self._schema is not None
        limits = self._ctx.limits
        hint = {"adbc.postgresql.batch_size_hint_bytes": str(limits.batch_bytes)}
        session = self._session
        for whole in session.stream(sql, hint):
            for raw in slices(whole, limits.batch_rows):
                session.check()
                _refuse_infinity(raw)
                yield raw, cast_batch(raw, self._schema)


def _read_column(found: catalog.CatalogColumn, wanted: dict[str, str]) -> ReadColumn:
    """Decide how to select a column so that its value arrives exact."""
    arrow, native = from_postgres(found.declared)
    name = quote_name(found.name)
    native_type = short_postgres_type(found.declared)
    expression = name
    if found.name in wanted:
        arrow, native = _wanted(found, wanted[found.name]), ""
        stored = postgres_type(Column(found.name, arrow))
        if stored is None:
            raise _no_such_type(found.name, arrow)
        expression = f"{name}::{stored.declared}"
    if arrow == "utf8" or arrow.startswith("decimal"):
        expression = name if found.declared == "text" else f"{expression}::text"
    if expression != name:
        expression += f" AS {name}"

    def literal(value: cursors.Value) -> str:
        return f"{quote_text(str(value), Dialect.POSTGRES)}::{native_type}"

    return ReadColumn(Column(found.name, arrow, found.nullable, native), expression, literal)


def _wanted(found: catalog.CatalogColumn, text: str) -> str:
    from mycelial.sdk.kit.arrowtypes import parse_type, type_name

    try:
        return type_name(parse_type(text))
    except ValueError as error:
        raise _no_such_type(found.name, text) from error


def _no_such_type(name: str, text: str) -> Permanent:
    return Permanent(
        "MYC-PG-032",
        f'columns: "{name}" is declared as {text!r}, which PostgreSQL cannot give',
        fix="write an Arrow type: int64, utf8, decimal128(18, 4), timestamp[us]",
    )


def _check_names(columns: tuple[ReadColumn, ...], config: Any, key: tuple[str, ...]) -> None:
    there = [c.column.name for c in columns]
    for field, wanted in (
        ("cursor", [config.cursor] if config.cursor else []),
        ("key", list(key)),
        ("columns", list(dict(config.columns))),
    ):
        for name in wanted:
            if name not in there:
                raise Permanent(
                    "MYC-PG-024",
                    f'{field} names "{name}", which is no column here',
                    fix=f"columns are: {', '.join(there)}",
                )


def _order(
    cursor: str, key: tuple[str, ...], columns: tuple[ReadColumn, ...], alone: set[str]
) -> tuple[tuple[str, ...], bool]:
    """Return by what rows are ordered, and whether that tells all rows apart."""
    types = {c.column.name: c for c in columns}

    def can_order(name: str) -> bool:
        column = types[name].column
        # Text that stands for another type orders by that type on the server.
        known = column.native.removeprefix("postgres:").partition("(")[0]
        return cursors.can_order(column.type) and (
            not column.native or known in ("varchar", "char", "numeric", "uuid", "name", "citext")
        )

    if cursor:
        if not can_order(cursor):
            raise Permanent(
                "MYC-PG-031",
                f'"{cursor}" of type {types[cursor].column.type} cannot be a cursor',
                fix="use an integer, text, timestamp, date, numeric or uuid column",
            )
        if cursor in alone or key == (cursor,):
            return (cursor,), True
        rest = tuple(name for name in key if name != cursor)
        if key and all(can_order(name) for name in rest):
            return (cursor, *rest), True
        return (cursor,), False
    if key and all(can_order(name) for name in key):
        return key, True
    return (), True


def _refuse_infinity(batch: RecordBatch) -> None:
    """PostgreSQL's infinite dates are the largest and smallest integers in Arrow: no date."""
    from arro3.compute import cast
    from arro3.compute import max as largest
    from arro3.compute import min as smallest
    from arro3.core import DataType

    for index, name in enumerate(batch.schema.names):
        column = batch.column(index)
        if column.type == DataType.date32():
            plain, edge = DataType.int32(), 2**31 - 1 - _EPOCHS_APART_DAYS
        elif bool(DataType.is_timestamp(column.type)):
            plain, edge = DataType.int64(), 2**63 - 1 - _EPOCHS_APART_DAYS * 86_400_000_000
        else:
            continue
        if column.null_count == len(column):
            continue
        values = cast(column, plain)
        if largest(values).as_py() >= edge or smallest(values).as_py() <= -edge:
            raise Permanent(
                "MYC-PG-033",
                f'column "{name}" holds an infinite date or time, which Arrow has not',
                fix=f"read it as text: columns: {{{name}: utf8}}",
            )
