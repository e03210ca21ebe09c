"""What each transform does to rows, and what it refuses when planned."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from arro3.compute import cast
from arro3.core import Array, DataType, RecordBatch

from mycelial.sdk.envelope import (
    BarrierKind,
    Column,
    Envelope,
    Output,
    Part,
    Position,
    StreamSchema,
)
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import arrow_schema, conforms
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import CORE, make_batch, rows_of

NAMES = ["filter", "select", "rename", "cast", "tag", "sql"]
REGISTRY = Registry.discover_only(NAMES)
ORDERS = StreamSchema(
    "orders",
    (Column("id", "int64", False), Column("qty", "int32"), Column("note", "utf8")),
    key=("id",),
)


def step(name: str, **manifest: Any) -> Any:
    loader = REGISTRY.loader(name, "transform")
    config = loader.config().model_validate(manifest).model_dump(mode="json")
    return loader.build(Settings(config))


def orders(*rows: tuple[int, int | None, str | None]) -> RecordBatch:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = arrow_schema(ORDERS).types
    arrays = [Array(list(c), k) for c, k in zip(columns, kinds, strict=True)]
    return RecordBatch.from_arrays(arrays, schema=arrow_schema(ORDERS))


def run(made: Any, batch: RecordBatch, stream: StreamSchema = ORDERS) -> Output:
    planned = made.plan((stream,))[0]
    envelope = Envelope(Part("0"), 1, Position('{"n":9}'), stream.name, batch)
    (output,) = made.apply(envelope)
    assert output.envelope.end == envelope.end
    assert output.envelope.batch is not None
    assert conforms(output.envelope.batch, arrow_schema(planned))
    made.close()
    return output


def rows(output: Output) -> list[tuple[Any, ...]]:
    assert output.envelope.batch is not None
    return rows_of([output.envelope.batch])


BATCH = [(1, 5, "a"), (2, None, None), (3, -1, "x'y"), (4, 0, "")]


@pytest.mark.parametrize(
    ("where", "params", "kept"),
    [
        pytest.param("qty > 0", {}, [1], id="null-is-dropped"),
        pytest.param("note = $n", {"n": "x'y"}, [3], id="bound-value"),
        pytest.param("note is null or qty = 0 -- why", {}, [2, 4], id="comment-at-the-end"),
        pytest.param("false", {}, [], id="nothing-left"),
        pytest.param("true", {}, [1, 2, 3, 4], id="everything"),
        pytest.param(
            "$unused is null or true", {"unused": 1, "other": 2}, [1, 2, 3, 4], id="spare"
        ),
    ],
)
def test_filter_keeps_rows_for_which_it_is_true(where: str, params: Any, kept: list[int]) -> None:
    output = run(step("filter", where=where, params=params), orders(*BATCH))
    assert [row[0] for row in rows(output)] == kept


def test_filter_keeps_every_type_as_it_was() -> None:
    batch = make_batch(CORE, 0, 30)
    output = run(step("filter", where="id % 2 = 0"), batch, CORE)
    assert rows(output) == rows_of([batch])[::2]


@pytest.mark.parametrize(
    ("name", "manifest", "code", "hint"),
    [
        pytest.param("filter", {"where": "qyt > 0"}, "MYC-XFORM-001", '"qty"', id="typo"),
        pytest.param("filter", {"where": "qty"}, "MYC-XFORM-010", "compare", id="not-boolean"),
        pytest.param("filter", {"where": "qty >"}, "MYC-XFORM-002", "", id="syntax"),
        pytest.param(
            "filter", {"where": "qty > avg(qty)"}, "MYC-XFORM-002", "", id="aggregate-in-where"
        ),
        pytest.param(
            "filter", {"where": "sum(qty) > 1"}, "MYC-XFORM-003", "", id="filter-aggregate"
        ),
        pytest.param(
            "filter",
            {"where": "1=1) from input; drop table x --"},
            "MYC-XFORM-002",
            "",
            id="two-statements",
        ),
        pytest.param(
            "sql", {"query": "select nope from input"}, "MYC-XFORM-001", "columns", id="sql-column"
        ),
        pytest.param(
            "sql", {"query": "select id, id from input"}, "MYC-XFORM-011", "as", id="twice"
        ),
        pytest.param(
            "sql", {"query": "select qty from input", "key": ["id"]}, "MYC-XFORM-012", "", id="key"
        ),
        pytest.param(
            "sql", {"query": "delete from input"}, "MYC-XFORM-002", "SELECT", id="not-a-select"
        ),
        pytest.param("sql", {"query": "copy input to 'x'"}, "MYC-XFORM-002", "", id="copy"),
        pytest.param("sql", {"query": "select * from 'x.csv'"}, "MYC-XFORM-002", "", id="file"),
        pytest.param(
            "sql",
            {"query": "select * from read_text('/etc/passwd')"},
            "MYC-XFORM-002",
            "",
            id="read-file",
        ),
        pytest.param("sql", {"query": "select 1 as one"}, "MYC-XFORM-003", "", id="no-input"),
        pytest.param("select", {"keep": ["idd"]}, "MYC-XFORM-020", '"id"', id="select-typo"),
        pytest.param("select", {"drop": ["id", "qty", "note"]}, "MYC-XFORM-021", "", id="drop-all"),
        pytest.param(
            "rename", {"columns": {"x": "y"}}, "MYC-XFORM-030", "columns", id="rename-unknown"
        ),
        pytest.param(
            "rename", {"columns": {"id": "qty"}}, "MYC-XFORM-031", "another", id="collision"
        ),
        pytest.param(
            "cast", {"columns": {"x": "int64"}}, "MYC-XFORM-040", "columns", id="cast-unknown"
        ),
        pytest.param("cast", {"columns": {"id": "integre"}}, "MYC-XFORM-041", "", id="cast-type"),
        pytest.param(
            "cast", {"columns": {"id": "struct<a: int64>"}}, "MYC-XFORM-042", "", id="no-cast"
        ),
        pytest.param("tag", {"columns": {"id": 1}}, "MYC-XFORM-050", "another", id="tag-collision"),
        pytest.param(
            "tag",
            {"columns": {"a": 1}, "types": {"b": "int8"}},
            "MYC-XFORM-051",
            "",
            id="tag-type-of-nothing",
        ),
        pytest.param(
            "tag",
            {"columns": {"a": 300}, "types": {"a": "int8"}},
            "MYC-XFORM-052",
            "",
            id="tag-does-not-fit",
        ),
    ],
)
def test_plan_refuses(name: str, manifest: Any, code: str, hint: str) -> None:
    made = step(name, **manifest)
    with pytest.raises(Permanent) as caught:
        made.plan((ORDERS,))
    made.close()
    assert caught.value.problem.code == code
    assert hint in caught.value.problem.fix + caught.value.problem.what


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from input",
        "select qty, sum(id) from input group by qty",
        "select distinct qty from input",
        "select id from input order by id",
        "select id from input order by id limit 3",
        "select id from input limit 1",
        "select id, row_number() over () as n from input",
        "select id, lag(id) over (order by id) as n from input",
        "select id from input where id = (select max(id) from input)",
        "select a.id from input a join input b on a.id = b.id",
        "select a.id from input a, input b",
        "select id from input using sample 10%",
        "select 1 as id union all select id from input",
    ],
)
def test_sql_refuses_what_depends_on_other_rows(query: str) -> None:
    made = step("sql", query=query)
    with pytest.raises(Permanent) as caught:
        made.plan((ORDERS,))
    made.close()
    assert caught.value.problem.code == "MYC-XFORM-003"


def test_sql_computes_filters_and_binds() -> None:
    made = step(
        "sql",
        query="select id, qty * 2 as double, upper(note) as note, $site as site "
        "from input where qty is not null;",
        params={"site": "o'hara; drop"},
    )
    output = run(made, orders(*BATCH))
    assert rows(output) == [
        (1, 10, "A", "o'hara; drop"),
        (3, -2, "X'Y", "o'hara; drop"),
        (4, 0, "", "o'hara; drop"),
    ]


def test_sql_keeps_the_types_of_columns_that_pass_through() -> None:
    large = StreamSchema(
        "big",
        (
            *CORE.columns,
            Column("lt", "large_utf8"),
            Column("u", "uint64"),
            Column("ms", "timestamp[ms]"),
            Column("b", "large_binary"),
        ),
    )
    made = step("sql", query="select * from input")
    assert made.plan((large,))[0].columns == tuple(Column(c.name, c.type) for c in large.columns)
    made.close()
    batch = make_batch(CORE, 0, 30)
    assert rows(run(step("sql", query="select * from input"), batch, CORE)) == rows_of([batch])


def test_sql_reads_dictionaries_as_plain_values() -> None:
    stream = StreamSchema("d", (Column("c", "utf8"),))
    coded = Array.from_arrow(
        cast(
            Array(["a", "b", "a"], DataType.utf8()),
            DataType.dictionary(DataType.int32(), DataType.utf8()),
        )
    )
    batch = RecordBatch.from_arrays([coded], names=["c"])
    assert rows(run(step("sql", query="select c from input"), batch, stream)) == [
        ("a",),
        ("b",),
        ("a",),
    ]


def test_sql_keeps_the_key_only_while_its_columns_are_there() -> None:
    for query, key in (("select * from input", ("id",)), ("select qty from input", ())):
        made = step("sql", query=query)
        assert made.plan((ORDERS,))[0].key == key
        made.close()


def test_a_value_that_makes_sql_fail_refuses_only_its_row_and_shows_no_value() -> None:
    batch = orders((1, 1, "12"), (2, 1, "hunter2"), (3, 1, "7"), (4, 1, None))
    output = run(step("sql", query="select id, note::int as n from input"), batch)
    assert rows(output) == [(1, 12), (3, 7), (4, None)]
    assert [(r.row, r.code) for r in output.rejects] == [(1, "MYC-XFORM-004")]
    assert "hunter2" not in output.rejects[0].message


def test_filter_refuses_only_the_row_that_fails() -> None:
    batch = orders((1, 1, "12"), (2, 1, "x"), (3, 1, "7"))
    output = run(step("filter", where="note::int > 10"), batch)
    assert [row[0] for row in rows(output)] == [1]
    assert [r.row for r in output.rejects] == [1]


@pytest.mark.parametrize(
    ("name", "manifest", "expected"),
    [
        pytest.param(
            "sql", {"query": "select *, random() as r from input"}, "external", id="random"
        ),
        pytest.param("sql", {"query": "select *, now() as t from input"}, "external", id="now"),
        pytest.param(
            "sql", {"query": "select *, current_date as t from input"}, "external", id="today"
        ),
        pytest.param("filter", {"where": "uuid() is null"}, "external", id="uuid"),
        pytest.param("sql", {"query": "select id + 1 as id from input"}, "pure", id="plain"),
        pytest.param("filter", {"where": "qty > 0"}, "pure", id="filter"),
        pytest.param("tag", {"columns": {"a": 1}}, "pure", id="tag"),
    ],
)
def test_determinism_is_declared(name: str, manifest: Any, expected: str) -> None:
    made = step(name, **manifest)
    assert made.determinism == expected
    made.close()


def test_select_keeps_in_the_given_order_and_drops_the_key_with_its_column() -> None:
    made = step("select", keep=["note", "qty"])
    assert made.plan((ORDERS,))[0].key == ()
    assert rows(run(made, orders((1, 5, "a")))) == [("a", 5)]
    assert rows(run(step("select", drop=["qty"]), orders((1, 5, "a")))) == [(1, "a")]


def test_rename_may_swap_names_and_renames_the_key() -> None:
    made = step("rename", columns={"id": "note", "note": "id"})
    planned = made.plan((ORDERS,))[0]
    assert [c.name for c in planned.columns] == ["note", "qty", "id"]
    assert planned.key == ("note",)
    assert rows(run(made, orders((1, 5, "a")))) == [(1, 5, "a")]


@pytest.mark.parametrize(
    ("kind", "values", "good", "bad"),
    [
        pytest.param("int64", ["1", "x", "007", "1.5", None], [1, 7, None], [1, 3], id="int"),
        pytest.param(
            "decimal128(5, 2)", ["1.10", "1.105", "1.100", "12345"], None, [1, 3], id="decimal"
        ),
        pytest.param(
            "date32", ["2026-01-31", "2026-01-31T10:00:00", "2026-02-30"], None, [1, 2], id="date"
        ),
        pytest.param(
            "timestamp[ms]",
            ["2026-01-31T10:00:00.123", "2026-01-31T10:00:00.1234"],
            None,
            [1],
            id="time",
        ),
        pytest.param("float64", ["1e400", "inf", "0.1"], [float("inf"), 0.1], [0], id="float"),
        pytest.param("bool", ["true", "maybe"], [True], [1], id="bool"),
    ],
)
def test_cast_rejects_what_does_not_fit_exactly(
    kind: str, values: list[str | None], good: list[Any] | None, bad: list[int]
) -> None:
    batch = orders(*[(n, 1, value) for n, value in enumerate(values)])
    output = run(step("cast", columns={"note": kind}), batch)
    assert [reject.row for reject in output.rejects] == bad
    assert [row[0] for row in rows(output)] == [n for n in range(len(values)) if n not in bad]
    if good is not None:
        assert [row[2] for row in rows(output)] == good
    assert not any(value and value in r.message for r in output.rejects for value in values)


def test_cast_between_numbers_must_come_back_the_same() -> None:
    stream = StreamSchema("n", (Column("f", "float64"), Column("i", "int64")))
    batch = RecordBatch.from_arrays(
        [
            Array([1.0, 1.5, None], DataType.float64()),
            Array([1, 2**53 + 1, None], DataType.int64()),
        ],
        schema=arrow_schema(stream),
    )
    output = run(step("cast", columns={"f": "int64"}), batch, stream)
    assert [r.row for r in output.rejects] == [1]
    output = run(step("cast", columns={"i": "float64"}), batch, stream)
    assert [r.row for r in output.rejects] == [1]


def test_cast_makes_null_only_when_told() -> None:
    made = step("cast", columns={"note": "int64"}, onError="null")
    output = run(made, orders((1, 1, "x"), (2, 1, "3")))
    assert rows(output) == [(1, 1, None), (2, 1, 3)]
    assert output.rejects == ()


def test_cast_of_a_batch_without_a_good_row_is_empty() -> None:
    output = run(step("cast", columns={"note": "int64"}), orders((1, 1, "x")))
    assert rows(output) == []
    assert len(output.rejects) == 1


def test_tag_adds_typed_constants() -> None:
    made = step(
        "tag",
        columns={"site": "s-1", "day": "2026-01-31", "n": 7, "ok": True},
        types={"day": "date32", "n": "int16"},
    )
    assert rows(run(made, orders((1, 5, "a"), (2, 6, "b")))) == [
        (1, 5, "a", "s-1", dt.date(2026, 1, 31), 7, True),
        (2, 6, "b", "s-1", dt.date(2026, 1, 31), 7, True),
    ]


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("filter", {"where": "qty > 0"}),
        ("sql", {"query": "select id from input"}),
        ("select", {"keep": ["id"]}),
        ("rename", {"columns": {"id": "x"}}),
        ("cast", {"columns": {"qty": "int64"}}),
        ("tag", {"columns": {"t": "v"}}),
    ],
)
def test_empty_batches_barriers_and_schemas_pass(name: str, manifest: Any) -> None:
    made = step(name, **manifest)
    assert rows(run(made, orders())) == []
    made = step(name, **manifest)
    planned = made.plan((ORDERS,))[0]
    barrier = Envelope(Part("0"), 2, Position("{}"), "orders", barrier=BarrierKind.FLUSH)
    assert [o.envelope for o in made.flush(barrier)] == [barrier]
    changed = Envelope(
        Part("0"), 3, Position("{}"), "orders", barrier=BarrierKind.SCHEMA, schema=ORDERS
    )
    assert [o.envelope.schema for o in made.flush(changed)] == [planned]
    made.close()


def test_duckdb_is_loaded_only_where_sql_is_used_and_brings_nothing_heavy() -> None:
    code = (
        "import sys; from mycelial.sdk.registry import Registry; from mycelial.sdk.settings import "
        "Settings\n"
        f"r = Registry.discover_only({NAMES!r}); [p.name for p in r]\n"
        "assert not {'duckdb', 'pydantic', 'arro3.core'} & set(sys.modules)\n"
        "s = r.loader('tag', 'transform').build(Settings({'columns': {'a': 1}, 'types': {}}))\n"
        "assert 'duckdb' not in sys.modules\n"
        "s = r.loader('sql', 'transform').build("
        "Settings({'query': 'select * from input', 'params': {}, 'key': []}))\n"
        "from mycelial.sdk.envelope import *\n"
        "s.plan((StreamSchema('s', (Column('a', 'int64'),)),)); s.close()\n"
        "assert not {'pyarrow', 'numpy', 'pandas', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("select id from input, read_text('{file}')", id="file"),
        pytest.param("select id from input where exists (from '{file}')", id="file-as-table"),
        pytest.param("select * from glob('{folder}/*')", id="folder"),
        pytest.param("select * from read_csv('http://127.0.0.1:1/x')", id="network"),
        pytest.param("copy (from input) to '{folder}/out.csv'", id="write"),
        pytest.param("select id from input; copy input to '{folder}/out.csv'", id="second"),
        pytest.param("attach '{folder}/out.db' as out", id="attach"),
        pytest.param("export database '{folder}/out'", id="export"),
        pytest.param("load httpfs", id="extension"),
        pytest.param("set enable_external_access = true", id="setting"),
        pytest.param("select id, getenv('HOME') as home from input", id="environment"),
    ],
)
def test_sql_reaches_nothing_but_its_batch(query: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\ncanary\n", "utf-8")
    text = query.format(folder=tmp_path.as_posix(), file=(tmp_path / "in.csv").as_posix())
    made = step("sql", query=text)
    with pytest.raises(Permanent) as caught:
        made.plan((ORDERS,))
    made.close()
    assert caught.value.problem.code == "MYC-XFORM-002"
    assert "canary" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("exists (from read_text('{file}'))", id="file"),
        pytest.param(
            "true) as keep from input; copy input to '{folder}/out'; select (true", id="2"
        ),
        pytest.param("true) as keep from read_text('{file}') --", id="another-table"),
    ],
)
def test_a_filter_stays_an_expression_over_its_row(where: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\ncanary\n", "utf-8")
    text = where.format(folder=tmp_path.as_posix(), file=(tmp_path / "in.csv").as_posix())
    made = step("filter", where=text)
    with pytest.raises(Permanent, match="MYC-XFORM-002"):
        made.plan((ORDERS,))
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
