"""The table of guarantees, against what real plugins plan against real endpoints."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from arro3.core import Array, DataType, RecordBatch
from arro3.io import write_parquet

import postgres_server
from mycelial.cli.wire_up import installed_catalog
from mycelial.runtime.guarantee import guarantee_of
from mycelial.schemas.catalog import Role
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import MemoryContext

README = Path(__file__).resolve().parents[2] / "README.md"
SOURCES = {
    "csv": {"path": "in.csv", "columns": {"id": "int64", "size": "int64"}},
    "generate": {"rows": 3, "columns": {"id": {"kind": "sequence"}, "size": {"kind": "int"}}},
    "parquet": {"path": "in.parquet"},
    "postgres": {"table": "given", "cursor": "id"},
    "sqlite": {"path": "in.db", "table": "given", "cursor": "id"},
}
DESTINATIONS = {
    "csv": {"path": "out.csv"},
    "inspect": {},
    "parquet": {"path": "out"},
    "postgres": {"table": "taken"},
    "sqlite": {"path": "out.db", "table": "taken"},
}


def table() -> dict[tuple[str, str], str]:
    """Return the README's promises by (source, destination)."""
    text = README.read_text("utf-8").split("<!-- guarantees -->")[1]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in text.split("<!-- /guarantees -->")[0].splitlines()
        if line.startswith("| ")
    ]
    names = rows[0][1:]
    return {
        (row[0], name): promise
        for row in rows[1:]
        for name, promise in zip(names, row[1:], strict=True)
    }


@pytest.mark.postgres
def test_the_table_says_what_the_engine_computes(
    tmp_path: Path, pg: postgres_server.Database
) -> None:
    _make_endpoints(tmp_path, pg)
    found = re.fullmatch(r"postgresql://(\w+)@(.+):(\d+)/(\w+)", pg.url)
    assert found is not None
    server = {"user": found[1], "host": found[2], "port": int(found[3]), "database": found[4]}
    context = MemoryContext(tmp_path)

    computed = {}
    for source, options in SOURCES.items():
        plan = _build(source, "source", options, server).plan(context)
        for destination, wanted in DESTINATIONS.items():
            target = _build(destination, "destination", wanted, server)
            promise = guarantee_of(plan, (), target.plan(context, plan.streams))
            computed[source, destination] = promise.level

    assert table() == computed


def test_the_table_has_every_plugin() -> None:
    plugins = list(Registry.discover())
    assert {source for source, _ in table()} == {p.name for p in plugins if p.source}
    assert {name for _, name in table()} == {p.name for p in plugins if p.destination}


def _build(name: str, role: Role, options: object, server: dict[str, object]) -> object:
    entry = installed_catalog().get(name, role)
    assert entry is not None
    given = {**options, **server} if name == "postgres" else options
    checked = entry.check(given)
    assert checked.config is not None, checked.errors
    return Registry.discover().loader(name, role).build(Settings(checked.config))


def _make_endpoints(folder: Path, pg: postgres_server.Database) -> None:
    (folder / "in.csv").write_text("id,size\n1,10\n2,20\n", "utf-8")
    numbers = Array([1, 2], DataType.int64())
    batch = RecordBatch.from_arrays([numbers, numbers], names=["id", "size"])
    write_parquet(batch, str(folder / "in.parquet"))
    with closing(sqlite3.connect(folder / "in.db")) as database:
        database.execute("create table given (id integer primary key, size integer)")
        database.commit()
    pg.execute("create table given (id bigint primary key, size bigint)")
