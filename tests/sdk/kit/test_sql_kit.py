"""Names, literals, positions and the type table: pure, and literals against both servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mycelial.sdk.envelope import Column, Committed, FenceToken, Part, Position, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit import cursor
from mycelial.sdk.kit.sql import Dialect, TableName, parse_table, quote_name, quote_text
from mycelial.sdk.kit.types import (
    fit_postgres,
    from_postgres,
    from_sqlite,
    postgres_type,
    sqlite_affinity,
    sqlite_type,
)
from mycelial.sdk.kit.writemodes import Runs, resolve_mode, staging_table
from table_harness import FakeContext, pg_config

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
VALUES = st.lists(st.integers() | TEXT, max_size=4)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_text_literals_mean_themselves_in_sqlite(text: str) -> None:
    from mycelial.connectors.sqlite.connection import connect

    session = connect(None, write=False, lock_timeout_seconds=1)
    try:
        sql = f"SELECT hex({quote_text(text, Dialect.SQLITE)}) AS h"
        assert session.rows(sql) == [(text.encode().hex().upper(),)]
    finally:
        session.close()


@pytest.mark.postgres
def test_text_literals_mean_themselves_in_postgres(pg: Any, tmp_path: Path) -> None:
    from mycelial.connectors.postgres.connection import connect
    from mycelial.sdk.settings import Settings

    fields = {"password": None, "sslrootcert": "", "connect_timeout": 5, **pg_config(pg.url)}
    session = connect(Settings(fields), FakeContext(tmp_path), "test")

    @given(TEXT.filter(lambda text: "\0" not in text), st.booleans())
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def check(text: str, conforming: bool) -> None:
        session.execute(f"SET standard_conforming_strings = {'on' if conforming else 'off'}")
        literal = quote_text(text, Dialect.POSTGRES)
        rows = session.rows(f"SELECT encode(convert_to({literal}, 'UTF8'), 'hex') AS h")
        assert rows == [(text.encode().hex(),)]

    try:
        check()
    finally:
        session.close()


@given(NAMES, NAMES)
def test_quoted_table_names_parse_back(schema: str, name: str) -> None:
    assert parse_table(f"{quote_name(schema)}.{quote_name(name)}") == TableName(name, schema)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", TableName("orders")),
        ("sales.orders", TableName("orders", "sales")),
        ('"a.b"', TableName("a.b")),
        ('sales."Order ""items"""', TableName('Order "items"', "sales")),
    ],
)
def test_table_names(text: str, expected: TableName) -> None:
    assert parse_table(text) == expected


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", '"a', '"a"b', '""', "a\0"])
def test_what_is_no_table_name_is_refused(text: str) -> None:
    with pytest.raises(Permanent):
        parse_table(text)


@given(VALUES, st.integers(0, 9))
def test_cursor_positions_round_trip(values: list[int | str], ties: int) -> None:
    place = cursor.decode(cursor.encode_cursor(values, ties))
    assert (place.values, place.ties, place.run) == (tuple(values), ties, 0)


@given(VALUES, st.integers(1, 10**6), st.booleans())
def test_run_positions_round_trip(values: list[int | str], run: int, ended: bool) -> None:
    place = cursor.decode(cursor.encode_run(run, values, ended=ended))
    assert place == cursor.Place(() if ended else tuple(values), run=run, ended=ended)


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"c":1.5,"k":[]}', '{"c":true,"k":[]}'])
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(Permanent):
        cursor.decode(Position(text))


ARROW = ["bool", "int8", "uint16", "int64", "uint64", "float32", "float64", "utf8", "binary",
         "date32", "time64[us]", "timestamp[us]", "timestamp[us, tz=UTC]", "decimal128(38, 10)",
         "timestamp[ms]", "time32[s]", "large_utf8"]  # fmt: skip


@pytest.mark.parametrize("arrow", ARROW)
def test_what_we_create_is_what_fits(arrow: str) -> None:
    column = Column("c", arrow)
    stored = postgres_type(column)
    assert stored is not None
    fit = fit_postgres(column, stored.declared)
    assert (fit.possible, fit.direct, fit.loses) == (True, True, "")
    assert sqlite_type(column) is not None


@pytest.mark.parametrize(
    ("arrow", "loses"),
    [("timestamp[ns]", True), ("time64[ns]", True), ("timestamp[s]", False), ("uint64", False)],
)
def test_lossy_edges_are_known(arrow: str, loses: bool) -> None:
    for store in (postgres_type, sqlite_type):
        stored = store(Column("c", arrow))
        assert stored is not None
        assert bool(stored.loses) is loses


@pytest.mark.parametrize("arrow", ["list<item: int64>", "struct<a: int64>"])
def test_nested_types_have_no_place(arrow: str) -> None:
    assert postgres_type(Column("c", arrow)) is None
    assert sqlite_type(Column("c", arrow)) is None


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        ("numeric(10,2)", ("decimal128(10, 2)", "")),
        ("numeric(39,2)", ("utf8", "postgres:numeric(39,2)")),
        ("numeric(3,-2)", ("utf8", "postgres:numeric(3,-2)")),
        ("character varying(9)", ("utf8", "postgres:varchar(9)")),
        ("timestamp(0) with time zone", ("timestamp[us, tz=UTC]", "postgres:timestamptz(0)")),
        ("uuid", ("utf8", "postgres:uuid")),
        ("integer[]", ("utf8", "postgres:integer[]")),
    ],
)
def test_postgres_types_in_arrow(formatted: str, expected: tuple[str, str]) -> None:
    assert from_postgres(formatted) == expected


@pytest.mark.parametrize(
    ("declared", "affinity", "arrow"),
    [
        ("UNSIGNED BIG INT", "INTEGER", "int64"),
        ("NVARCHAR(100)", "TEXT", "utf8"),
        ("DOUBLE PRECISION", "REAL", "float64"),
        ("", "BLOB", None),
        ("NUMERIC", "NUMERIC", None),
        ("DECIMAL(10)", "NUMERIC", "decimal128(10, 0)"),
        ("DATETIME", "NUMERIC", "timestamp[us]"),
        ("DECIMAL_TEXT(38,10)", "TEXT", "decimal128(38, 10)"),
    ],
)
def test_sqlite_types_in_arrow(declared: str, affinity: str, arrow: str | None) -> None:
    assert (sqlite_affinity(declared), from_sqlite(declared)) == (affinity, arrow)


SNAPSHOT = StreamSchema("s", (Column("id", "int64"),), ("id",))
NEW_ONLY = StreamSchema("s", (Column("id", "int64"),), ("id",), incremental=True)


@pytest.mark.parametrize(
    ("declared", "stream", "mode"),
    [
        ("auto", SNAPSHOT, "replace"),
        ("auto", NEW_ONLY, "append"),
        ("upsert", NEW_ONLY, "upsert"),
        ("append", SNAPSHOT, "append"),
    ],
)
def test_the_mode_follows_the_stream(declared: str, stream: StreamSchema, mode: str) -> None:
    assert resolve_mode(declared, stream, stream.key) == mode


@pytest.mark.parametrize("declared", ["replace", "truncate"])
def test_run_modes_need_snapshots(declared: str) -> None:
    with pytest.raises(Permanent, match="snapshots"):
        resolve_mode(declared, NEW_ONLY, ())


def test_a_second_sender_cannot_replace() -> None:
    one = Committed(1, Position("{}"), FenceToken(1, 1), ends_run=True)
    runs = Runs("replace", {Part("one"): one})
    runs.begin(Part("one"))
    with pytest.raises(Permanent, match="sender"):
        runs.begin(Part("two"))


def test_rows_outside_a_run_are_refused_and_abort_forgets_the_run() -> None:
    runs = Runs("replace", {})
    with pytest.raises(Permanent, match="outside"):
        runs.check(Part("0"))
    runs.begin(Part("0"))
    runs.check(Part("0"))
    runs.abort()
    with pytest.raises(Permanent, match="outside"):
        runs.check(Part("0"))


@given(NAMES, NAMES)
def test_staging_names_fit_and_differ_by_scope(scope: str, other: str) -> None:
    name = staging_table(TableName("t"), scope)
    assert len(name.name) <= 63
    assert (name == staging_table(TableName("t"), other)) is (scope == other)
