"""Example 01: the commands of its README against a real PostgreSQL, and what arrived."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import console
import postgres_server

README_PASSWORD = "demo-pw-1"


@pytest.mark.e2e
@pytest.mark.postgres
def test_readme_holds_and_source_and_destination_are_equal(
    example: Callable[[str], Path], pg: postgres_server.Database
) -> None:
    folder = example("01-sqlite-to-postgres")
    readme = folder / "README.md"
    _prepare(readme.read_text("utf-8"), pg)
    _say_where_the_warehouse_is(folder / "connections" / "warehouse.yaml", pg)

    console.run_file(readme, folder)

    with sqlite3.connect(folder / "shop.db") as shop:
        sold = shop.execute(
            "select id, customer, status, cents, note from orders where status <> 'test'"
        ).fetchall()
    arrived = pg.query("select id, customer, status, amount_cents, note from orders")
    assert Counter(arrived) == Counter(sold)
    for path in folder.rglob("*"):
        is_ours = path.is_file() and path.name != "README.md"
        assert not (is_ours and README_PASSWORD.encode() in path.read_bytes()), f"I11: {path}"


def _prepare(readme: str, pg: postgres_server.Database) -> None:
    """Make the role as the README says, on a server that does ask for its password."""
    pg.execute("drop role if exists loader")
    (sql,) = (fence.text for fence in console.fences(readme) if fence.language == "sql")
    pg.execute(*(statement for statement in sql.split(";") if statement.strip()))
    rules = pg.server.directory / "data" / "pg_hba.conf"
    asks = f"host {pg.name} loader 127.0.0.1/32 scram-sha-256\n"
    rules.write_text(asks + rules.read_text("utf-8"), "utf-8")
    pg.execute("select pg_reload_conf()")


def _say_where_the_warehouse_is(manifest: Path, pg: postgres_server.Database) -> None:
    changes = {
        "host: localhost": "host: 127.0.0.1",
        "port: 5432": f"port: {pg.server.port}",
        "database: shop": f"database: {pg.name}",
    }
    text = manifest.read_text("utf-8")
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    manifest.write_text(text, "utf-8")
