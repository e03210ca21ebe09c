"""PostgreSQL source and destination against a real server."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mycelial.connectors.postgres import PLUGIN
from mycelial.connectors.postgres.connection import classify, connect
from mycelial.sdk.envelope import BarrierKind, FenceToken, Position
from mycelial.sdk.errors import (
    Ambiguous,
    CheckpointRegressed,
    Fenced,
    Interrupted,
    NotYet,
    Permanent,
    Transient,
)
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.plugin import Limits
from mycelial.sdk.settings import Settings
from table_harness import PART, Engine, FakeContext, build, checkpoint, pg_config, units

pytestmark = pytest.mark.postgres


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path, limits=Limits(batch_rows=100))


def source(pg: Any, **config: Any) -> Any:
    return build(PLUGIN, "source", {**pg_config(pg.url), **config})


def destination(pg: Any, **config: Any) -> Any:
    return build(PLUGIN, "destination", {**pg_config(pg.url), **config})


def connection(pg: Any, ctx: FakeContext) -> Session:
    fields = {"password": None, "sslrootcert": "", "connect_timeout": 5, **pg_config(pg.url)}
    return connect(Settings(fields), ctx, "test")


def engine(ctx: FakeContext, pg: Any, src: dict, dst: dict, **more: Any) -> Engine:
    return Engine(ctx, source(pg, **src), destination(pg, **dst), **more)


VALUES = [
    ("smallint", "'-32768'", "'32767'"),
    ("integer", "'-2147483648'", "'2147483647'"),
    ("bigint", "'-9223372036854775808'", "'9223372036854775807'"),
    ("real", "'1e-38'", "'NaN'"),
    ("double precision", "'1.7976931348623157e308'", "'-Infinity'"),
    ("numeric(20,2)", "'-999999999999999999.99'", "'1.10'"),
    ("numeric(38,10)", "'9999999999999999999999999999.9999999999'", "'0'"),
    ("numeric(60,5)", "'1234567890123456789012345678901234567890.12345'", "'-0.00001'"),
    ("numeric", "'1e-50'", "'NaN'"),
    ("boolean", "true", "false"),
    ("text", "''", "'tab\there \"q\" ''s'' \\ 東京 😀'"),
    ("varchar(5)", "'abcde'", "''"),
    ("char(5)", "'ab'", "'abcde'"),
    ("bytea", "'\\x00ff00'", "''"),
    ("date", "'0001-01-01'", "'9999-12-31'"),
    ("time", "'00:00:00'", "'23:59:59.999999'"),
    ("timetz", "'23:59:59.999999+02:30'", "'00:00:00-12'"),
    ("timestamp", "'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'"),
    ("timestamptz", "'2026-03-29 01:30:00.000001+01'", "'1969-12-31 23:59:59.999999Z'"),
    ("timestamp(3)", "'2026-01-01 00:00:00.123'", "'2026-01-01'"),
    ("interval", "'1 year 2 mons 3 days 04:05:06.789'", "'-1 days +02:03:00'"),
    ("uuid", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
    ("json", '\'{"b": 1,  "a": [null]}\'', "'null'"),
    ("jsonb", '\'{"b": 1, "a": [1.10]}\'', "'\"x\"'"),
    ("inet", "'10.0.0.1/8'", "'::1'"),
    ("cidr", "'10.0.0.0/8'", "'::/0'"),
    ("macaddr", "'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'"),
    ("integer[]", "'{1,NULL,-3}'", "'{}'"),
    ("text[]", '\'{a,"b,c",NULL,""}\'', "'{{a,b},{c,d}}'"),
    ("money", "'-12.34'", "'92233720368547758.07'"),
    ("point", "'(1.5,-2)'", "'(0,0)'"),
    ("int4range", "'[1,10)'", "'empty'"),
    ("xml", "'<a b=\"c\">d</a>'", "'x'"),
    ("bit(3)", "B'101'", "B'000'"),
    ("mood", "'happy'", "'sad'"),
    ("tsvector", "'a:1 b:2'", "''"),
    ("oid", "4294967295", "0"),
    ("name", "'abc'", "''"),
]


@pytest.mark.parametrize(("kind", "low", "high"), VALUES, ids=[v[0] for v in VALUES])
def test_every_type_arrives_as_it_left(
    ctx: FakeContext, pg: Any, kind: str, low: str, high: str
) -> None:
    pg.execute(
        "create type mood as enum ('sad', 'happy')",
        f"create table source_table (id int primary key, v {kind})",
        f"insert into source_table values (1, {low}), (2, {high}), (3, null)",
    )
    moved = engine(ctx, pg, {"table": "source_table"}, {"table": "copy"}).move()
    assert moved.rows == 3
    typed = (
        "select format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = '{}'::regclass and attname = 'v'"
    )
    assert pg.query(typed.format("copy")) == pg.query(typed.format("source_table"))
    text = "select id, v::text from {} order by id"
    assert pg.query(text.format("copy")) == pg.query(text.format("source_table"))


@pytest.mark.parametrize("mode", ["append", "replace", "truncate", "upsert"])
def test_types_survive_an_existing_table_that_needs_casts(
    ctx: FakeContext, pg: Any, mode: str
) -> None:
    pg.execute(
        "create table a (id int primary key, n numeric, u uuid, j jsonb, code varchar(9))",
        "insert into a values (1, 1.10, gen_random_uuid(), '{}', 'x'), (2, null, null, null, null)",
        "create table b (id bigint primary key, n numeric, u uuid, j jsonb, code varchar(9), "
        "extra text default 'd')",
    )
    engine(ctx, pg, {"table": "a"}, {"table": "b", "mode": mode}).move()
    assert pg.query("select id, n::text, u::text, j::text, code, extra from b order by id") == [
        (*row, "d")
        for row in pg.query("select id::bigint, n::text, u::text, j::text, code from a order by id")
    ]


@pytest.mark.parametrize(
    "name", ["Mixed Case", 'quo"te', "semi;colon", "ünï東京", "select", "a.b", "x'y", "back\\slash"]
)
def test_odd_names_are_names(ctx: FakeContext, pg: Any, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    pg.execute(
        f"create schema {quoted}",
        f"create table {quoted}.{quoted} ({quoted} int primary key, v text)",
        f"insert into {quoted}.{quoted} values (1, 'a')",
    )
    table, copy = f"{quoted}.{quoted}", f'{quoted}."copy of"'
    for _ in range(2):
        engine(ctx, pg, {"table": table}, {"table": copy}).move()
    assert pg.query(f"select * from {copy}") == [(1, "a")]


def test_an_empty_table_is_made_and_stays_empty(ctx: FakeContext, pg: Any) -> None:
    pg.execute("create table a (id int primary key, v numeric(10,2))")
    moved = engine(ctx, pg, {"table": "a"}, {"table": "b"}).move()
    assert moved.position == '{"end":true,"run":1}'
    assert pg.query("select count(*) from b") == [(0,)]


def test_three_hundred_columns(ctx: FakeContext, pg: Any) -> None:
    columns = ", ".join(f"c{i} int" for i in range(300))
    pg.execute(
        f"create table a (id int primary key, {columns})",
        "insert into a (id, c299) select g, g from generate_series(1, 250) g",
    )
    engine(ctx, pg, {"table": "a"}, {"table": "b"}).move()
    assert pg.query("select count(*), sum(c299)::bigint from b") == [(250, 31375)]


def rows(pg: Any, table: str) -> list[tuple[object, ...]]:
    return pg.query(f"select id, v from {table} order by id, v")


def fill(pg: Any, first: int, last: int, table: str = "a") -> None:
    pg.execute(f"insert into {table} select g, 'v' || g from generate_series({first}, {last}) g")


@pytest.fixture
def ab(pg: Any) -> Any:
    pg.execute("create table a (id int primary key, v text not null)")
    fill(pg, 1, 1000)
    return pg


def test_replace_follows_the_source_through_runs(ctx: FakeContext, ab: Any) -> None:
    engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=300).move()
    ab.execute("delete from a where id <= 500", "update a set v = 'new' where id = 600")
    engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=300, fence=FenceToken(1, 2)).move()
    assert rows(ab, "b") == rows(ab, "a")
    assert ab.query("select count(*) from pg_class where relname like '\\_mycelial\\_run%'") == [
        (0,)
    ]


def test_replace_keeps_what_hangs_on_the_table(ctx: FakeContext, ab: Any) -> None:
    ab.execute(
        "create table b (id int primary key, v text, also int default 7)",
        "create view seen as select v from b",
        "create index by_v on b (v)",
    )
    engine(ctx, ab, {"table": "a"}, {"table": "b"}).move()
    assert ab.query("select count(*) from seen") == [(1000,)]
    assert ab.query("select count(*) from b where also = 7") == [(1000,)]
    assert ab.query("select count(*) from pg_indexes where tablename = 'b'") == [(2,)]


def test_readers_see_the_old_run_until_the_new_one_is_whole(ctx: FakeContext, ab: Any) -> None:
    engine(ctx, ab, {"table": "a"}, {"table": "b"}).move()
    before = rows(ab, "b")
    ab.execute("update a set v = 'new'")
    second = engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=100)
    second.move(max_units=4)
    assert rows(ab, "b") == before
    engine(ctx, ab, {"table": "a"}, {"table": "b"}).move()
    assert rows(ab, "b") == rows(ab, "a")


def test_a_run_resumes_where_it_was_cut(ctx: FakeContext, ab: Any) -> None:
    first = engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=100).move(max_units=3)
    assert first.rows == 300
    second = engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=100).move()
    assert second.rows == 700
    assert rows(ab, "b") == rows(ab, "a")


def test_a_lost_staging_table_is_not_passed_over(ctx: FakeContext, ab: Any) -> None:
    engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=100).move(max_units=3)
    (name,) = ab.query(
        "select relname from pg_class where relname ~ '^_mycelial_run' and relkind='r'"
    )[0]
    ab.execute(f'drop table "{name}"')
    with pytest.raises(CheckpointRegressed):
        engine(ctx, ab, {"table": "a"}, {"table": "b"}).move()


def test_leftovers_of_a_dead_run_are_dropped_at_open(ctx: FakeContext, ab: Any) -> None:
    engine(ctx, ab, {"table": "a"}, {"table": "b"}, unit_rows=100).move(max_units=3)
    ab.execute("update _mycelial_checkpoint set ends_run = true where part <> ''")
    dest = destination(ab, table="b")
    dest.open(ctx, "w/0", FenceToken(1, 1))
    dest.close()
    assert ab.query("select count(*) from pg_class where relname ~ '^_mycelial_run'") == [(0,)]


def test_truncate_empties_with_the_first_unit(ctx: FakeContext, ab: Any) -> None:
    ab.execute("create table b (id int, v text)", "insert into b values (-1, 'old')")
    engine(ctx, ab, {"table": "a"}, {"table": "b", "mode": "truncate"}, unit_rows=100).move()
    engine(ctx, ab, {"table": "a"}, {"table": "b", "mode": "truncate"}, unit_rows=100).move()
    assert rows(ab, "b") == rows(ab, "a")


def test_upsert_takes_the_last_of_equal_keys(ctx: FakeContext, pg: Any) -> None:
    pg.execute(
        "create table a (n int primary key, id int, v text)",
        "insert into a select g, g % 10, 'v' || g from generate_series(1, 250) g",
        "create table b (id int primary key, v text, n int)",
        "insert into b values (3, 'old', 0), (77, 'kept', 0)",
    )
    engine(ctx, pg, {"table": "a"}, {"table": "b", "mode": "upsert", "key": ["id"]}).move()
    expected = [((g % 10), f"v{g}", g) for g in range(241, 251)] + [(77, "kept", 0)]
    assert pg.query("select id, v, n from b order by id") == sorted(expected)


def test_incremental_reads_each_row_once_across_ties_and_inserts(ctx: FakeContext, pg: Any) -> None:
    pg.execute(
        "create table a (id int primary key, at timestamp not null, v text)",
        "insert into a select g, '2026-01-01 00:00:00.123456'::timestamp + (g / 50) * "
        "interval '1 microsecond', 'x' from generate_series(1, 500) g",
    )
    src, dst = {"table": "a", "cursor": "at"}, {"table": "b"}
    engine(ctx, pg, src, dst, unit_rows=100).move(max_units=2)
    pg.execute(
        "insert into a select g, '2026-01-01 00:00:00.123466', 'late' from generate_series(501, 520) g"  # noqa: E501
    )
    moved = engine(ctx, pg, src, dst, unit_rows=100).move()
    assert pg.query("select id from b order by 1") == [(i,) for i in range(1, 521)]
    assert moved.position == '{"c":"2026-01-01T00:00:00.123466","k":[520]}'
    assert engine(ctx, pg, src, dst).move().rows == 0


CURSORS = [
    ("bigint", "9007199254740993 + g"),
    ("text", "'k' || lpad(g::text, 4, '0') || E'\\\\ ''q'"),
    ("numeric", "g * 1.000000000000000000001"),
    ("numeric(30,10)", "g * 1.0000000001"),
    ("uuid", "lpad(to_hex(g), 32, '0')::uuid"),
    ("timestamptz", "timestamptz '2026-01-01 00:00:00.000001+00' + g * interval '1 microsecond'"),
    ("date", "date '2026-01-01' + g"),
    ("varchar(9)", "lpad(g::text, 5, '0')"),
]


@pytest.mark.parametrize(("kind", "value"), CURSORS, ids=[c[0] for c in CURSORS])
def test_a_cursor_of_each_type_comes_back_exact(
    ctx: FakeContext, pg: Any, kind: str, value: str
) -> None:
    pg.execute(
        f"create table a (c {kind} not null, id int primary key)",
        f"insert into a select {value}, g from generate_series(1, 250) g",
    )
    src, dst = {"table": "a", "cursor": "c"}, {"table": "b", "mode": "append"}
    assert engine(ctx, pg, src, dst, unit_rows=100).move(max_units=1).rows == 100
    assert engine(ctx, pg, src, dst, unit_rows=100).move().rows == 150
    assert engine(ctx, pg, src, dst, unit_rows=100).move().rows == 0
    assert pg.query("select count(distinct id), count(*) from b") == [(250, 250)]


def test_a_cursor_with_ties_and_no_key_says_so_and_does_not_reload_for_ever(
    ctx: FakeContext, pg: Any
) -> None:
    pg.execute("create table a (c int not null)", "insert into a values (1), (2), (2)")
    src, dst = {"table": "a", "cursor": "c"}, {"table": "b"}
    plan = source(pg, **src).plan(ctx)
    assert not plan.replayable
    assert any("twice" in note for note in plan.notes)
    engine(ctx, pg, src, dst).move()
    assert engine(ctx, pg, src, dst).move().rows == 0
    pg.execute("insert into a values (2)")
    engine(ctx, pg, src, dst).move()
    assert set(pg.query("select c from b")) == {(1,), (2,)}
    assert pg.query("select count(*) >= 4 from b") == [(True,)]


def test_null_cursors_are_refused(ctx: FakeContext, pg: Any) -> None:
    pg.execute("create table a (c int, id int primary key)", "insert into a values (null, 1)")
    with pytest.raises(Permanent, match="NULL") as caught:
        source(pg, table="a", cursor="c").plan(ctx)
    assert caught.value.problem.code == "MYC-PG-030"


def test_a_query_is_read_with_its_types(ctx: FakeContext, ab: Any) -> None:
    src = {
        "query": "select id * 1.5::numeric(10,1) as n, v from a where id <= 3 -- tail",
        "key": ["v"],
    }
    engine(ctx, ab, src, {"table": "b"}).move()
    assert ab.query("select n::text, v from b order by v") == [
        ("1.5", "v1"),
        ("3.0", "v2"),
        ("4.5", "v3"),
    ]


def test_the_lower_fence_is_refused_at_open_and_at_commit(ctx: FakeContext, ab: Any) -> None:
    old, src = destination(ab, table="b", mode="append"), source(ab, table="a")
    streams = src.plan(ctx).streams
    old.open(ctx, "w", FenceToken(1, 5))
    old.migrate(streams)
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    for envelope in unit:
        old.write(envelope)
    new = destination(ab, table="b", mode="append")
    new.open(ctx, "w", FenceToken(2, 1))
    with pytest.raises(Fenced):
        old.commit(checkpoint("w", FenceToken(1, 5), 1, unit))
    with pytest.raises(Fenced):
        destination(ab, table="b").open(ctx, "w", FenceToken(1, 9))
    for closable in (old, new, src):
        closable.close()
    assert ab.query("select count(*) from b") == [(0,)]


def test_another_scope_has_a_fence_of_its_own(ctx: FakeContext, ab: Any) -> None:
    first, second = destination(ab, table="b"), destination(ab, table="c")
    first.open(ctx, "one", FenceToken(9, 9))
    assert second.open(ctx, "two", FenceToken(1, 1)) == {}
    first.close()
    second.close()


CRASH = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from table_harness import *
from mycelial.connectors.postgres import PLUGIN
from mycelial.connectors.postgres.connection import connect
from mycelial.sdk.kit.adbc import Session
ctx = FakeContext(Path("."), limits=Limits(batch_rows=100))
config = pg_config(sys.argv[2])
real = Session.execute
def execute(self, sql):
    if sql == "COMMIT" and sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(self, sql)
    if sql == "COMMIT" and sys.argv[3] == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    if sql.startswith('UPDATE "_') and sys.argv[3] == "fence":
        os.kill(os.getpid(), signal.SIGKILL)
    return done
Session.execute = execute
destination = build(PLUGIN, "destination", {**config, "table": "b", "mode": sys.argv[4]})
Engine(ctx, build(PLUGIN, "source", {**config, "table": "a"}), destination, unit_rows=500).move()
"""


@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.parametrize(("when", "units_in"), [("fence", 0), ("before", 0), ("after", 1)])
def test_a_kill_leaves_rows_and_checkpoint_together(
    ctx: FakeContext, ab: Any, tmp_path: Path, when: str, units_in: int, mode: str
) -> None:
    support = str(Path(__file__).parents[2] / "support")
    done = subprocess.run(
        [sys.executable, "-c", CRASH, support, ab.url, when, mode],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    stored = ab.query("select rows from _mycelial_checkpoint where part <> ''")
    assert stored == ([(500,)] if units_in else [])
    if mode == "append":
        assert ab.query("select count(*) from b") == [(500 * units_in,)]
    engine(ctx, ab, {"table": "a"}, {"table": "b", "mode": mode}, fence=FenceToken(1, 2)).move()
    assert rows(ab, "b") == rows(ab, "a")


def test_a_violated_constraint_is_permanent_and_leaves_nothing(ctx: FakeContext, ab: Any) -> None:
    ab.execute("create table b (id int primary key, v text check (v <> 'v7'))")
    with pytest.raises(Permanent) as caught:
        engine(ctx, ab, {"table": "a"}, {"table": "b", "mode": "append"}).move()
    assert caught.value.problem.code == "MYC-PG-026"
    assert caught.value.problem.fix
    assert ab.query("select count(*) from b") == [(0,)]


def test_a_failed_unit_must_be_aborted_before_more(ctx: FakeContext, ab: Any) -> None:
    ab.execute("create table b (id int primary key, v varchar(2))")
    src, dest = source(ab, table="a"), destination(ab, table="b", mode="append")
    streams = src.plan(ctx).streams
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate(streams)
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    for envelope in unit:
        dest.write(envelope)
    mark = checkpoint("w", FenceToken(1, 1), 1, unit)
    with pytest.raises(Permanent, match="too long"):
        dest.commit(mark)
    with pytest.raises(Permanent, match="aborted"):
        dest.commit(mark)
    dest.abort()
    dest.close()
    src.close()
    assert ab.query("select count(*) from b") == [(0,)]


def test_missing_columns_are_added(ctx: FakeContext, ab: Any) -> None:
    ab.execute("create table b (id int primary key)")
    run = engine(ctx, ab, {"table": "a"}, {"table": "b", "mode": "append"})
    assert run.destination.plan(ctx, run.streams).ddl == ('ALTER TABLE "b" ADD COLUMN "v" text',)
    run.move()
    assert rows(ab, "b") == rows(ab, "a")


@pytest.mark.parametrize(
    ("ddl", "code"),
    [
        ("id boolean", "MYC-TYPE-012"),
        ("id int, v text, must int not null", "MYC-TYPE-014"),
        ("id int, v text generated always as ('x') stored", "MYC-TYPE-013"),
    ],
)
def test_a_table_that_cannot_take_the_rows_is_refused_in_the_plan(
    ctx: FakeContext, ab: Any, ddl: str, code: str
) -> None:
    ab.execute(f"create table b ({ddl})")
    with pytest.raises(Permanent) as caught:
        destination(ab, table="b").plan(ctx, source(ab, table="a").plan(ctx).streams)
    assert caught.value.problem.code == code


def test_upsert_without_a_unique_index_is_refused(ctx: FakeContext, ab: Any) -> None:
    ab.execute("create table b (id int, v text)")
    with pytest.raises(Permanent) as caught:
        destination(ab, table="b", mode="upsert").plan(ctx, source(ab, table="a").plan(ctx).streams)
    assert "UNIQUE INDEX" in caught.value.problem.fix


def test_a_narrower_numeric_is_a_lossy_edge(ctx: FakeContext, pg: Any) -> None:
    pg.execute("create table a (n numeric(20,4))", "create table b (n numeric(20,2))")
    (edge,) = destination(pg, table="b").plan(ctx, source(pg, table="a").plan(ctx).streams).lossy
    assert (edge.column, edge.destination_type) == ("n", "numeric(20,2)")


def test_infinite_timestamps_are_refused_and_read_as_text_when_asked(
    ctx: FakeContext, pg: Any
) -> None:
    pg.execute(
        "create table a (id int primary key, t timestamp, d date)",
        "insert into a values (1, 'infinity', '-infinity')",
    )
    with pytest.raises(Permanent) as caught:
        engine(ctx, pg, {"table": "a"}, {"table": "b"}).move()
    assert caught.value.problem.code == "MYC-PG-033"
    src = {"table": "a", "columns": {"t": "utf8", "d": "text"}}
    engine(ctx, pg, src, {"table": "c"}).move()
    assert pg.query("select t, d from c") == [("infinity", "-infinity")]


def test_interrupt_ends_a_read(ctx: FakeContext, pg: Any) -> None:
    src = source(pg, query="select g, pg_sleep(0.01)::text from generate_series(1, 100000) g")
    src.open(ctx)
    timer = threading.Timer(0.2, src.interrupt)
    timer.start()
    with pytest.raises(Interrupted):
        list(src.read(PART, None))
    timer.join()
    src.close()


def test_interrupt_ends_a_blocked_commit(ctx: FakeContext, ab: Any) -> None:
    src, dest = source(ab, table="a"), destination(ab, table="b", mode="append")
    streams = src.plan(ctx).streams
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate(streams)
    holder = connection(ab, ctx)
    holder.execute("BEGIN")
    holder.execute("LOCK TABLE b")
    for envelope in unit:
        dest.write(envelope)
    timer = threading.Timer(0.3, dest.interrupt)
    timer.start()
    with pytest.raises(Interrupted):
        dest.commit(checkpoint("w", FenceToken(1, 1), 1, unit))
    timer.join()
    for closable in (src, holder, dest):
        closable.close()
    assert ab.query("select count(*) from b") == [(0,)]


class CutOnCommit:
    """A TCP proxy that passes everything until it sees a COMMIT; then it cuts the client off,
    before or after the server got it."""

    def __init__(self, port: int, *, deliver: bool) -> None:
        self._port, self._deliver = port, deliver
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for one, other, outward in ((client, server, True), (server, client, False)):
                    thread = threading.Thread(target=self._pump, args=(one, other, outward))
                    thread.start()
                    self._threads.append(thread)

    def _pump(self, one: socket.socket, other: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if outward and b"COMMIT" in data and not self.cut.is_set():
                    self.cut.set()
                    one.shutdown(socket.SHUT_RDWR)
                    if self._deliver:
                        other.sendall(data)
                        other.recv(65536)
                    break
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("deliver", [True, False], ids=["it landed", "it did not"])
def test_a_commit_whose_answer_is_lost_is_ambiguous_and_settled_by_asking(
    ctx: FakeContext, ab: Any, deliver: bool
) -> None:
    proxy = CutOnCommit(pg_config(ab.url)["port"], deliver=deliver)
    config = {**pg_config(ab.url), "port": proxy.port, "table": "b", "mode": "append"}
    src, dest = source(ab, table="a"), build(PLUGIN, "destination", config)
    streams = src.plan(ctx).streams
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate(streams)
    for envelope in unit:
        dest.write(envelope)
    mark = checkpoint("w", FenceToken(1, 1), 1, unit)
    with pytest.raises(Ambiguous):
        dest.commit(mark)
    assert proxy.cut.is_set()
    stored = dest.open(ctx, "w", FenceToken(1, 1))
    assert [s.seq for s in stored.values()] == ([1] if deliver else [])
    if not deliver:
        dest.migrate(streams)
        for envelope in unit:
            dest.write(envelope)
        dest.commit(mark)
    dest.close()
    src.close()
    proxy.close()
    assert ab.query("select count(*) from b") == [(100,)]


def test_a_terminated_backend_is_transient_and_the_next_unit_reconnects(
    ctx: FakeContext, ab: Any
) -> None:
    src, dest = source(ab, table="a"), destination(ab, table="b", mode="append")
    streams = src.plan(ctx).streams
    src.open(ctx)
    unit = next(units(src.read(PART, None), 100))
    dest.open(ctx, "w", FenceToken(1, 1))
    dest.migrate(streams)
    dest.write(unit[0])
    dest.write(unit[1])
    ab.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mycelial write'"  # noqa: E501
    )
    with pytest.raises(Transient):
        dest.commit(checkpoint("w", FenceToken(1, 1), 1, unit))
    dest.abort()
    for envelope in unit:
        dest.write(envelope)
    dest.commit(checkpoint("w", FenceToken(1, 1), 1, unit))
    dest.close()
    src.close()
    assert ab.query("select count(*) from b") == [(100,)]


def test_a_wrong_password_is_not_shown(ctx: FakeContext, pg: Any) -> None:
    ctx.secrets["pw"] = "hunter2-is-secret"
    wrong = {**pg_config(pg.url), "port": 1, "password": {"secret": "pw"}, "table": "a"}
    with pytest.raises(Transient) as caught:
        build(PLUGIN, "source", wrong).plan(ctx)
    assert "hunter2" not in f"{caught.value} {caught.value.problem} {caught.value.__cause__}"


def test_a_missing_table_names_itself(ctx: FakeContext, pg: Any) -> None:
    with pytest.raises(NotYet, match="nowhere") as caught:
        source(pg, table="nowhere").plan(ctx)
    assert caught.value.problem.code == "MYC-PG-023"


@pytest.mark.parametrize(
    ("text", "sqlstate", "may_come"),
    [
        pytest.param('database "x" does not exist', "", True, id="database"),
        pytest.param('relation "x" does not exist', "42P01", True, id="table"),
        pytest.param('schema "x" does not exist', "3F000", True, id="schema"),
        pytest.param('role "x" does not exist', "", False, id="role"),
        pytest.param('column "x" does not exist', "42703", False, id="column"),
        pytest.param('column "x" does not exist', "", False, id="column, no state"),
    ],
)
def test_what_is_not_there_may_still_come(text: str, sqlstate: str, may_come: bool) -> None:
    assert isinstance(classify(text, sqlstate, "here"), NotYet) == may_come
    assert may_come or isinstance(classify(text, sqlstate, "here"), Permanent)


def test_set_position_stores_without_rows(ctx: FakeContext, ab: Any) -> None:
    engine(ctx, ab, {"table": "a", "cursor": "id"}, {"table": "b"}).move()
    dest = destination(ab, table="b")
    dest.open(ctx, "w/0", FenceToken(1, 2))
    from mycelial.sdk.envelope import Checkpoint

    position = Position('{"c":990,"k":[]}')
    dest.set_position(Checkpoint("w/0", PART, FenceToken(1, 2), 9, position, 0))
    dest.close()
    ab.execute("truncate b")
    assert (
        engine(ctx, ab, {"table": "a", "cursor": "id"}, {"table": "b"}, fence=FenceToken(1, 3))
        .move()
        .rows
        == 10
    )


def test_run_barriers_bracket_a_snapshot(ctx: FakeContext, ab: Any) -> None:
    src = source(ab, table="a")
    src.open(ctx)
    found = list(src.read(PART, None))
    src.close()
    assert found[0].barrier is BarrierKind.RUN_START
    assert found[-1].barrier is BarrierKind.RUN_END
    assert all(e.rows <= 100 for e in found)
    assert [e.seq for e in found] == list(range(1, len(found) + 1))
