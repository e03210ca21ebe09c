"""The database connectors pass the same suite as the file connectors."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Literal

import pytest
from arro3.core import Array, RecordBatch

from mycelial.sdk.envelope import StreamSchema
from mycelial.sdk.kit.arrowtypes import parse_type
from mycelial.sdk.kit.casts import cast_exact
from mycelial.sdk.plugin import Limits
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import (
    NARROW,
    Case,
    MemoryContext,
    Row,
    destination_cases,
    expected_rows,
    rows_of,
    source_cases,
)

REGISTRY = Registry.discover_only(["sqlite"])


def build(role: Literal["source", "destination"], **manifest: Any) -> Any:
    loader = REGISTRY.loader("sqlite", role)
    return loader.build(Settings(loader.config().model_validate(manifest).model_dump(mode="json")))


class SqliteSourceDriver:
    def __init__(self, name: str, *, snapshot: bool, settings: dict[str, Any]) -> None:
        self.name = name
        self.snapshot = snapshot
        self._settings = settings

    def context(self, root: Path) -> MemoryContext:
        return MemoryContext(root, limits=Limits(batch_rows=16))

    def create(self, root: Path, rows: int) -> None:
        with contextlib.closing(sqlite3.connect(root / "shop.db")) as database, database:
            database.execute("create table orders (id integer primary key, label text)")
            database.executemany("insert into orders values (?, ?)", expected_rows(NARROW, 0, rows))

    def build(self, root: Path) -> Any:
        return build("source", path="shop.db", table="orders", **self._settings)


class SqliteDestinationDriver:
    exactly_once = True

    def __init__(self, mode: Literal["append", "replace", "upsert"]) -> None:
        self.name = f"sqlite-{mode}"
        self.mode = mode

    def context(self, root: Path) -> MemoryContext:
        return MemoryContext(root)

    def build(self, root: Path) -> Any:
        key = {"key": ["id"]} if self.mode == "upsert" else {}
        return build("destination", path="copy.db", table="out", mode=self.mode, **key)

    def crash(self, root: Path, destination: Any) -> None:
        destination.close()  # a killed process's transaction is rolled back, as by `close`

    def read(self, root: Path, schema: StreamSchema) -> list[Row]:
        """Read with another library, and take the stored text for what the schema says it is."""
        if not (root / "copy.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(root / "copy.db")) as database:
            tables = database.execute("select 1 from sqlite_schema where name = 'out'").fetchall()
            rows = database.execute("select * from out").fetchall() if tables else []
        if not rows:
            return []
        arrays = [
            _typed([row[index] for row in rows], column.type)
            for index, column in enumerate(schema.columns)
        ]
        return rows_of([RecordBatch.from_arrays(arrays, names=[c.name for c in schema.columns])])


def _typed(values: list[Any], name: str) -> Array:
    kind = parse_type(name)
    if name == "bool":
        return Array([None if value is None else bool(value) for value in values], kind)
    if name in ("utf8", "binary", "int64", "int32", "float64"):
        return Array(values, kind)
    return cast_exact(Array(values, parse_type("utf8")), kind).values


SOURCES = [
    SqliteSourceDriver("sqlite-snapshot", snapshot=True, settings={}),
    SqliteSourceDriver("sqlite-cursor", snapshot=False, settings={"cursor": "id"}),
]
DESTINATIONS = [
    SqliteDestinationDriver("append"),
    SqliteDestinationDriver("replace"),
    SqliteDestinationDriver("upsert"),
]


@pytest.mark.parametrize("case", [c for d in SOURCES for c in source_cases(d)], ids=str)
def test_source_conforms(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


@pytest.mark.parametrize("case", [c for d in DESTINATIONS for c in destination_cases(d)], ids=str)
def test_destination_conforms(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)
