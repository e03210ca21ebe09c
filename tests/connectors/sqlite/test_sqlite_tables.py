"""SQLite source and destination on real files. The files are made with the driver's own copy of
SQLite: a second copy in this process would not see its locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mycelial.connectors.sqlite import PLUGIN
from mycelial.connectors.sqlite.connection import connect
from mycelial.sdk.envelope import Column, Envelope, FenceToken, Position, StreamSchema
from mycelial.sdk.errors import Fenced, Interrupted, LossyType, NotYet, Permanent, Transient
from mycelial.sdk.plugin import Limits
from table_harness import PART, Engine, FakeContext, build, checkpoint, units


class File:
    """A database file of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def execute(self, *statements: str) -> None:
        session = connect(self.path, write=True, lock_timeout_seconds=1)
        try:
            for statement in statements:
                session.execute(statement)
        finally:
            session.close()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        session = connect(self.path, write=False, lock_timeout_seconds=1)
        try:
            return session.rows(sql)
        finally:
            session.close()


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path, limits=Limits(batch_rows=100))


@pytest.fixture
def a(tmp_path: Path) -> File:
    return File(tmp_path / "a.db")


@pytest.fixture
def b(tmp_path: Path) -> File:
    return File(tmp_path / "b.db")


def source(**config: Any) -> Any:
    return build(PLUGIN, "source", {"path": "a.db", **config})


def destination(**config: Any) -> Any:
    return build(PLUGIN, "destination", {"path": "b.db", "lockTimeout": "100ms", **config})


def engine(ctx: FakeContext, src: dict, dst: dict, **more: Any) -> Engine:
    return Engine(ctx, source(**src), destination(**dst), **more)


GENERATE = (
    "with recursive g(n) as (select {0} union all select n + 1 from g where n < {1}) "
    "insert into {2} select n, 'v' || n from g"
)


@pytest.fixture
def ab(a: File, b: File) -> tuple[File, File]:
    a.execute(
        "create table a (id integer primary key, v text not null)", GENERATE.format(1, 1000, "a")
    )
    return a, b


def rows(file: File, table: str) -> list[tuple[Any, ...]]:
    return file.query(f"select id, v from {table} order by id, v")


TYPES = [
    ("INTEGER", "-9223372036854775808", "9223372036854775807"),
    ("REAL", "1.7976931348623157e308", "-9e999"),
    ("TEXT", "''", "'tab\there ''s'' \"q\" \\ 東京 😀' || char(0) || 'after'"),
    ("VARCHAR(3)", "'longer than said'", "'x'"),
    ("BLOB", "x'00ff00'", "x''"),
    ("BOOLEAN", "1", "0"),
    ("DATE", "'0001-01-01'", "'9999-12-31'"),
    ("TIME", "'00:00:00'", "'23:59:59.999999'"),
    ("TIMESTAMP", "'0001-01-01T00:00:00.000000'", "'9999-12-31T23:59:59.999999'"),
    ("TIMESTAMPTZ", "'2026-03-29T01:30:00.000001'", "'1969-12-31T23:59:59.999999'"),
    ("DECIMAL_TEXT(38,10)", "'9999999999999999999999999999.9999999999'", "'-0.0000000001'"),
    ("DECIMAL(10,2)", "12345678.91", "-1.1"),
]


@pytest.mark.parametrize(("kind", "low", "high"), TYPES, ids=[t[0] for t in TYPES])
def test_every_type_arrives_as_it_left(
    ctx: FakeContext, a: File, b: File, kind: str, low: str, high: str
) -> None:
    # NULLs first, in more rows than a batch: the driver would guess a type from them.
    a.execute(
        f"create table a (id integer primary key, v {kind})",
        "with recursive g(n) as (select 1 union all select n + 1 from g where n < 250) "
        "insert into a select n, null from g",
        f"insert into a values (1001, {low}), (1002, {high})",
    )
    moved = engine(ctx, {"table": "a"}, {"table": "b"}).move()
    assert moved.rows == 252
    text = "select id, cast(v as text) as t, hex(v) as h from {} where id > 1000 order by id"
    if kind.startswith(("DATE", "TIME", "DECIMAL")):
        text = "select id, cast(v as text) as t from {} where id > 1000 order by id"
    if kind == "BLOB":
        text = "select id, hex(v) as h from {} where id > 1000 order by id"
    expected = a.query(text.format("a"))
    found = b.query(text.format("b"))
    if kind == "TIME":
        expected = [(1001, "00:00:00"), (1002, "23:59:59.999999")]
    if kind == "DECIMAL(10,2)":
        expected = [(1001, "12345678.91"), (1002, "-1.10")]
    assert found == expected
    again = build(PLUGIN, "source", {"path": "b.db", "table": "b"}).plan(ctx).streams[0]
    assert again.column("v").type == source(table="a").plan(ctx).streams[0].column("v").type  # type: ignore[union-attr]


DIRTY = [
    ("INTEGER", "'text'"),
    ("INTEGER", "1.5"),
    ("REAL", "'text'"),
    ("TEXT", "x'fffe'"),
    ("BLOB", "'text'"),
    ("BOOLEAN", "2"),
    ("BOOLEAN", "'true'"),
    ("DATE", "20260101"),
    ("DATE", "'2026-02-30'"),
    ("DATE", "'soon'"),
    ("TIMESTAMP", "1767225600"),
    ("TIMESTAMP", "'2026-01-01 00:00:00+02:00'"),
    ("TIMESTAMP", "'2026-01-01 00:00:00.000-02:00'"),
    ("TIMESTAMP", "'2026-01-01 00:00:00Z'"),
    ("TIMESTAMP", "'2026-01-01 00:00:00.1234567'"),
    ("TIMESTAMPTZ", "'2026-01-01 00:00:00.1234567Z'"),
    ("TIME", "'25:00:00'"),
    ("DECIMAL(10,2)", "1.005"),
    ("DECIMAL(4,2)", "12345.0"),
    ("DECIMAL(10,2)", "'n/a'"),
    ("DECIMAL(30,2)", "1.5"),
]


@pytest.mark.parametrize(("kind", "value"), DIRTY, ids=[f"{k}={v}" for k, v in DIRTY])
def test_a_value_that_does_not_fit_stops_the_read_with_its_place(
    ctx: FakeContext, a: File, kind: str, value: str
) -> None:
    a.execute(
        f"create table a (id integer primary key, v {kind})",
        "with recursive g(n) as (select 1 union all select n + 1 from g where n < 250) "
        "insert into a select n, null from g",
        f"insert into a values (777, {value})",
    )
    src = source(table="a")
    src.open(ctx)
    with pytest.raises(Permanent, match="777") as caught:
        list(src.read(PART, None))
    src.close()
    assert caught.value.problem.code == "MYC-SQLITE-030"
    assert "columns: {v: text}" in caught.value.problem.fix


def test_the_plan_names_the_first_offending_row(ctx: FakeContext, ab: Any) -> None:
    ab[0].execute(
        "create table d (id integer primary key, n integer)",
        "insert into d values (5, 1), (9, 'x'), (11, 'y')",
    )
    with pytest.raises(Permanent, match="rowid 9"):
        source(table="d").plan(ctx)
    plan = source(table="d", columns={"n": "text"}).plan(ctx)
    assert plan.streams[0].column("n").type == "utf8"  # type: ignore[union-attr]


def test_a_blob_of_large_integers_declared_float_is_refused(ctx: FakeContext, a: File) -> None:
    a.execute(
        "create table a (id integer primary key, n numeric)",
        "insert into a values (1, 9007199254740993)",
    )
    src = source(table="a", columns={"n": "float64"})
    src.open(ctx)
    with pytest.raises(Permanent, match="rowid 1"):
        list(src.read(PART, None))
    src.close()


def test_a_query_finds_its_types(ctx: FakeContext, ab: tuple[File, File]) -> None:
    engine(
        ctx,
        {"query": "select id, v, id * 1.5 as x, null as z from a where id <= 2 -- end"},
        {"table": "b"},
    ).move()
    assert ab[1].query("select id, v, x, z from b order by id") == [
        (1, "v1", 1.5, None),
        (2, "v2", 3.0, None),
    ]


@pytest.mark.parametrize("name", ["Mixed Case", 'quo"te', "semi;colon", "ünï東京", "select", "x'y"])
def test_odd_names_are_names(ctx: FakeContext, a: File, b: File, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    a.execute(
        f"create table {quoted} ({quoted} integer primary key, v text)",
        f"insert into {quoted} values (1, 'a')",
    )
    for _ in range(2):
        engine(ctx, {"table": quoted}, {"table": quoted}).move()
    assert b.query(f"select * from {quoted}") == [(1, "a")]


def test_an_empty_table_is_made_and_stays_empty(ctx: FakeContext, a: File, b: File) -> None:
    a.execute("create table a (id integer primary key, v text)")
    assert engine(ctx, {"table": "a"}, {"table": "b"}).move().position == '{"end":true,"run":1}'
    assert b.query("select count(*) as n from b") == [(0,)]


def test_three_hundred_columns(ctx: FakeContext, a: File, b: File) -> None:
    a.execute(
        f"create table a (id integer primary key, {', '.join(f'c{i} integer' for i in range(300))})",  # noqa: E501
        "with recursive g(n) as (select 1 union all select n + 1 from g where n < 250) "
        "insert into a (id, c299) select n, n from g",
    )
    engine(ctx, {"table": "a"}, {"table": "b"}).move()
    assert b.query("select count(*) as n, sum(c299) as s from b") == [(250, 31375)]


@pytest.mark.parametrize("key", ["without rowid", "text key", "no key"])
def test_a_run_resumes_where_it_was_cut(ctx: FakeContext, a: File, b: File, key: str) -> None:
    ddl = {
        "without rowid": "create table a (id integer, v text, primary key (v, id)) without rowid",
        "text key": "create table a (id integer, v text primary key)",
        "no key": "create table a (id integer, v text)",
    }[key]
    a.execute(ddl, GENERATE.format(1, 1000, "a"))
    assert engine(ctx, {"table": "a"}, {"table": "b"}, unit_rows=300).move(max_units=2).rows == 600
    assert engine(ctx, {"table": "a"}, {"table": "b"}, unit_rows=300).move().rows == 400
    assert rows(b, "b") == rows(a, "a")


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "with view and index"])
def test_replace_follows_the_source_and_keeps_readers_whole(
    ctx: FakeContext, ab: tuple[File, File], plain: bool
) -> None:
    a, b = ab
    engine(ctx, {"table": "a"}, {"table": "b"}).move()
    if not plain:
        b.execute("create view seen as select v from b", "create index by_v on b (v)")
    before = rows(b, "b")
    a.execute("delete from a where id <= 500", "update a set v = 'new' where id = 600")
    engine(ctx, {"table": "a"}, {"table": "b"}, unit_rows=100).move(max_units=3)
    assert rows(b, "b") == before
    engine(ctx, {"table": "a"}, {"table": "b"}, unit_rows=100).move()
    assert rows(b, "b") == rows(a, "a")
    assert b.query(
        "select count(*) as n from sqlite_schema where name like '\\_mycelial\\_run%' escape '\\'"
    ) == [(0,)]
    if not plain:
        assert b.query("select count(*) as n from seen") == [(500,)]


def test_truncate_and_append(ctx: FakeContext, ab: tuple[File, File]) -> None:
    a, b = ab
    b.execute("create table b (id integer, v text)", "insert into b values (-1, 'old')")
    for _ in range(2):
        engine(ctx, {"table": "a"}, {"table": "b", "mode": "truncate"}, unit_rows=100).move()
    assert rows(b, "b") == rows(a, "a")
    engine(ctx, {"table": "a"}, {"table": "b", "mode": "append"}, scope="other").move()
    assert b.query("select count(*) as n from b") == [(2000,)]


def test_upsert_takes_the_last_of_equal_keys(ctx: FakeContext, a: File, b: File) -> None:
    a.execute(
        "create table a (n integer primary key, id integer, v text)",
        "with recursive g(n) as (select 1 union all select n + 1 from g where n < 250) "
        "insert into a select n, n % 10, 'v' || n from g",
    )
    b.execute(
        "create table b (id integer primary key, v text, n integer)",
        "insert into b values (3, 'old', 0), (77, 'kept', 0)",
    )
    engine(ctx, {"table": "a"}, {"table": "b", "mode": "upsert", "key": ["id"]}).move()
    expected = [((g % 10), f"v{g}", g) for g in range(241, 251)] + [(77, "kept", 0)]
    assert b.query("select id, v, n from b order by id") == sorted(expected)


@pytest.mark.parametrize("key", ["id integer primary key", "id integer"], ids=["key", "rowid"])
def test_incremental_reads_each_row_once_across_ties_and_inserts(
    ctx: FakeContext, a: File, b: File, key: str
) -> None:
    a.execute(
        f"create table a (at timestamp not null, {key})",
        "with recursive g(n) as (select 1 union all select n + 1 from g where n < 500) "
        "insert into a select '2026-01-01 00:00:00.12345' || (n / 60), n from g",
    )
    src, dst = {"table": "a", "cursor": "at"}, {"table": "b"}
    engine(ctx, src, dst, unit_rows=100).move(max_units=2)
    a.execute("insert into a values ('2026-01-01 00:00:00.123458', 501)")
    moved = engine(ctx, src, dst, unit_rows=100).move()
    assert moved.position == '{"c":"2026-01-01 00:00:00.123458","k":[501]}'
    assert b.query("select id from b order by 1") == [(i,) for i in range(1, 502)]
    assert engine(ctx, src, dst).move().rows == 0


def test_null_cursors_are_refused(ctx: FakeContext, a: File) -> None:
    a.execute("create table a (id integer primary key, c text)", "insert into a values (1, null)")
    with pytest.raises(Permanent, match="NULL"):
        source(table="a", cursor="c").plan(ctx)


def test_the_lower_fence_is_refused_at_open_and_at_commit(
    ctx: FakeContext, ab: tuple[File, File]
) -> None:
    old, src = destination(table="b", mode="append"), source(table="a")
    streams = src.plan(ctx).streams
    old.open(ctx, "w", FenceToken(1, 5))
    old.migrate(streams)
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    for envelope in unit:
        old.write(envelope)
    new = destination(table="b", mode="append")
    new.open(ctx, "w", FenceToken(2, 1))
    with pytest.raises(Fenced):
        old.commit(checkpoint("w", FenceToken(1, 5), 1, unit))
    with pytest.raises(Fenced):
        destination(table="b").open(ctx, "w", FenceToken(1, 9))
    for closable in (old, new, src):
        closable.close()
    assert ab[1].query("select count(*) as n from b") == [(0,)]


CRASH = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from table_harness import *
from mycelial.connectors.sqlite import PLUGIN
from mycelial.sdk.kit.adbc import Session
ctx = FakeContext(Path("."), limits=Limits(batch_rows=100))
real = Session.execute
begun = False
def execute(self, sql):
    global begun
    begun = begun or sql == "BEGIN IMMEDIATE"
    if sql == "COMMIT" and sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(self, sql)
    if sql == "COMMIT" and sys.argv[2] == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    if begun and sql.startswith('UPDATE "_') and sys.argv[2] == "fence":
        os.kill(os.getpid(), signal.SIGKILL)
    return done
Session.execute = execute
destination = build(PLUGIN, "destination", {"path": "b.db", "table": "b", "mode": sys.argv[3]})
Engine(ctx, build(PLUGIN, "source", {"path": "a.db", "table": "a"}), destination, unit_rows=500).move()
"""  # noqa: E501


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.parametrize(("when", "units_in"), [("fence", 0), ("before", 0), ("after", 1)])
def test_a_kill_leaves_rows_and_checkpoint_together(
    ctx: FakeContext, ab: tuple[File, File], when: str, units_in: int, mode: str, journal: str
) -> None:
    a, b = ab
    b.execute("create table other (x)")
    session = connect(b.path, write=True, lock_timeout_seconds=1)
    session.rows(f"pragma journal_mode = {journal}")
    session.close()
    support = str(Path(__file__).parents[2] / "support")
    done = subprocess.run(
        [sys.executable, "-c", CRASH, support, when, mode],
        cwd=ctx.state_dir, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    stored = b.query("select rows from _mycelial_checkpoint where part <> ''")
    assert stored == ([(500,)] if units_in else [])
    if mode == "append":
        assert b.query("select count(*) as n from b") == [(500 * units_in,)]
    engine(ctx, {"table": "a"}, {"table": "b", "mode": mode}, fence=FenceToken(1, 2)).move()
    assert rows(b, "b") == rows(a, "a")


def test_a_locked_file_is_transient_and_the_unit_can_be_written_again(
    ctx: FakeContext, ab: tuple[File, File]
) -> None:
    b = ab[1]
    src, dest = source(table="a"), destination(table="b", mode="append")
    streams = src.plan(ctx).streams
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate(streams)
    holder = connect(b.path, write=True, lock_timeout_seconds=1)
    holder.execute("BEGIN IMMEDIATE")
    for envelope in unit:
        dest.write(envelope)
    with pytest.raises(Transient) as caught:
        dest.commit(checkpoint("w", FenceToken(1, 1), 1, unit))
    assert caught.value.problem.code == "MYC-SQLITE-010"
    holder.execute("ROLLBACK")
    holder.close()
    dest.abort()
    for envelope in unit:
        dest.write(envelope)
    dest.commit(checkpoint("w", FenceToken(1, 1), 1, unit))
    dest.close()
    src.close()
    assert b.query("select count(*) as n from b") == [(100,)]


def test_writing_locks_nobody_out_before_the_commit(
    ctx: FakeContext, ab: tuple[File, File]
) -> None:
    b = ab[1]
    src, dest = source(table="a"), destination(table="b", mode="append")
    streams = src.plan(ctx).streams
    src.open(ctx)
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate(streams)
    for envelope in next(units(src.read(PART, None), 100)):
        dest.write(envelope)
    b.execute("create table other (x)", "insert into other values (1)")
    dest.close()
    src.close()
    assert b.query("select count(*) as n from b") == [(0,)]


def test_nan_is_refused(ctx: FakeContext, b: File) -> None:
    from arro3.core import Array, DataType, RecordBatch

    dest = destination(table="b", mode="append")
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate((StreamSchema("s", (Column("x", "float64"),)),))
    batch = RecordBatch.from_pydict({"x": Array([1.0, float("nan")], DataType.float64())})
    with pytest.raises(LossyType, match="row 1"):
        dest.write(Envelope(PART, 1, Position("{}"), batch=batch))
    dest.close()


def test_plan_makes_no_file(ctx: FakeContext, ab: tuple[File, File]) -> None:
    plan = destination(table="b").plan(ctx, source(table="a").plan(ctx).streams)
    assert plan.mode == "replace"
    assert plan.ddl[0].startswith('CREATE TABLE IF NOT EXISTS "b"')
    assert not ab[1].path.exists()


def test_interrupt_ends_a_read(ctx: FakeContext, ab: tuple[File, File]) -> None:
    src = source(table="a")
    src.open(ctx)
    found = src.read(PART, None)
    next(found), next(found)
    src.interrupt()
    with pytest.raises(Interrupted):
        list(found)
    src.close()


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"table": "a", "cursor": "nope"}, "MYC-SQLITE-025"),
        ({"query": "selekt"}, "MYC-SQLITE-027"),
        ({"table": "x.y"}, "MYC-SQLITE-021"),
    ],
)
def test_mistakes_are_named(ctx: FakeContext, ab: Any, config: dict, code: str) -> None:
    with pytest.raises(Permanent) as caught:
        source(**config).plan(ctx)
    assert caught.value.problem.code == code
    assert caught.value.problem.fix


@pytest.mark.parametrize(
    ("config", "code"),
    [
        pytest.param({"path": "none.db", "table": "a"}, "MYC-SQLITE-020", id="file"),
        pytest.param({"path": "no/folder/x.db", "table": "a"}, "MYC-SQLITE-020", id="folder"),
        pytest.param({"table": "nowhere"}, "MYC-SQLITE-024", id="table"),
        pytest.param({"query": "select * from nowhere"}, "MYC-SQLITE-024", id="table of a query"),
    ],
)
def test_what_is_not_there_may_still_come(
    ctx: FakeContext, ab: Any, config: dict, code: str
) -> None:
    with pytest.raises(NotYet) as caught:
        source(**config).plan(ctx)
    assert caught.value.problem.code == code
    assert caught.value.problem.fix
