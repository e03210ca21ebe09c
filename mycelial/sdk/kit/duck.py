"""SQL over one batch at a time, in a DuckDB that can reach nothing else.

DuckDB is imported when a session opens. It has no files, no network, no extensions, one thread
and a memory cap, and its configuration is locked. Only plans made of row-local operators are
accepted, because a batch is an accident: an aggregate over it would mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from arro3.core import RecordBatch, RecordBatchReader, Schema, Table

from mycelial.sdk.envelope import StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import arrow_schema
from mycelial.sdk.kit.step import unknown_column

INPUT = "input"
MEMORY_MAX = "256MiB"
# In this order: the last two close the door on the others.
_SETTINGS = (
    "SET threads = 1",
    f"SET memory_limit = '{MEMORY_MAX}'",
    "SET temp_directory = ''",
    "SET autoload_known_extensions = false",
    "SET autoinstall_known_extensions = false",
    "SET python_enable_replacements = false",
    "SET TimeZone = 'UTC'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_ROW_LOCAL = {"PROJECTION", "FILTER", "EMPTY_RESULT", "UNNEST", "UNION", "ARROW_SCAN"}
_WHY_NOT = (
    ("GROUP_BY", "it groups or aggregates (or uses DISTINCT)"),
    ("AGGREGATE", "it aggregates"),
    ("WINDOW", "it uses a window function"),
    ("ORDER", "it sorts"),
    ("TOP_N", "it sorts and limits"),
    ("LIMIT", "it limits or samples"),
    ("SAMPLE", "it limits or samples"),
    ("JOIN", "it joins or uses a subquery"),
    ("PRODUCT", "it joins"),
    ("DUMMY_SCAN", 'it has a part that does not read from "input"'),
)
_MISSING_COLUMN = re.compile(r'column "(.+?)" not found|named "(.+?)"', re.IGNORECASE)


class Duck:
    """One private in-memory database. Not thread-safe."""

    def __init__(self) -> None:
        import duckdb

        self._errors: type[Exception] = duckdb.Error
        self._select = duckdb.StatementType.SELECT
        self._con = duckdb.connect(":memory:")
        for setting in _SETTINGS:
            self._con.execute(setting)
        self._volatile = frozenset(
            name
            for (name,) in self._con.execute(
                "SELECT DISTINCT function_name FROM duckdb_functions() "
                "WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
            ).fetchall()
        )

    @property
    def error(self) -> type[Exception]:
        """The base of what DuckDB raises."""
        return self._errors

    def check(self, query: str, stream: StreamSchema, params: Mapping[str, Any]) -> Schema:
        """Bind a query to the planned columns and return the columns of its result.

        Raises: Permanent with what is wrong: syntax, unknown column, not row-local.
        """
        schema = arrow_schema(stream)
        empty = Table.from_batches([], schema=schema)
        try:
            statements = self._con.extract_statements(query)
            if len(statements) != 1 or statements[0].type != self._select:
                raise Permanent(
                    "MYC-XFORM-002",
                    "only one SELECT statement is allowed here",
                    fix="write `select ... from input where ...`",
                )
            self._con.register(INPUT, empty)
            self._check_operators(query, params)
            relation = self._relation(query, params)
            return RecordBatchReader.from_arrow(relation).schema
        except self._errors as error:
            raise self._explained(error, stream) from error

    def run(self, query: str, batch: RecordBatch, params: Mapping[str, Any]) -> RecordBatch:
        """Return the query's rows over one batch. Raises: `error`, when a value does not fit."""
        self._con.register(INPUT, Table.from_batches([batch]))
        reader = RecordBatchReader.from_arrow(self._relation(query, params))
        batches = list(reader)
        if len(batches) == 1:
            return batches[0]
        return (
            Table.from_batches(batches, schema=reader.schema).combine_chunks().to_batches()[0]
            if batches
            else RecordBatch.from_arrays(
                [column.combine_chunks() for column in reader.schema.empty_table().columns],
                schema=reader.schema,
            )
        )

    def is_volatile(self, query: str) -> bool:
        """Tell whether the same row may give another result tomorrow (random(), now())."""
        answer = self._con.execute("SELECT json_serialize_sql($q)", {"q": query}).fetchone()
        tree = json.loads(answer[0]) if answer else {}
        return any(name.lower() in self._volatile for name in _called(tree))

    def close(self) -> None:
        """Free the database."""
        self._con.close()

    def _relation(self, query: str, params: Mapping[str, Any]) -> Any:
        # DuckDB refuses parameters that the query does not use.
        used = {name: value for name, value in params.items() if f"${name}" in query}
        return self._con.sql(query, params=used) if used else self._con.sql(query)

    def _check_operators(self, query: str, params: Mapping[str, Any]) -> None:
        used = {name: value for name, value in params.items() if f"${name}" in query}
        answer = self._con.execute(f"EXPLAIN (FORMAT json) {query}", used or None).fetchall()
        operators = [name for node in json.loads(answer[0][1]) for name in _operators(node)]
        scans = sum(name.startswith("ARROW_SCAN") for name in operators)
        for name in operators:
            if name in _ROW_LOCAL or name.startswith("ARROW_SCAN"):
                continue
            why = next((text for part, text in _WHY_NOT if part in name), f"it needs {name}")
            raise Permanent(
                "MYC-XFORM-003",
                f"this query depends on more than one row at a time: {why}",
                fix="a transform sees one batch, whose size means nothing: do that in the "
                "source's own query or at the destination",
            )
        if scans == 0 and "EMPTY_RESULT" not in operators:
            raise Permanent(
                "MYC-XFORM-003", 'this query does not read from "input"', fix="add `from input`"
            )

    def _explained(self, error: Exception, stream: StreamSchema) -> Permanent:
        text = str(error)
        found = _MISSING_COLUMN.search(text)
        if found and "Binder Error" in text:
            return unknown_column("MYC-XFORM-001", found[1] or found[2], stream)
        names = ", ".join(f"{column.name} {column.type}" for column in stream.columns)
        what = text.split("\n\nLINE", maxsplit=1)[0].replace("\n", " ")
        return Permanent(
            "MYC-XFORM-002",
            f"DuckDB refuses this SQL: {what}",
            fix=f"correct the SQL; its input has: {names}",
        )


def _operators(node: Mapping[str, Any]) -> Iterator[str]:
    yield str(node["name"]).strip()
    for child in node["children"]:
        yield from _operators(child)


def _called(tree: Any) -> Iterator[str]:
    """Yield names of functions, and of columns, since `current_date` parses as one."""
    if isinstance(tree, dict):
        if isinstance(name := tree.get("function_name"), str):
            yield name
        if isinstance(names := tree.get("column_names"), list) and len(names) == 1:
            yield str(names[0])
        for value in tree.values():
            yield from _called(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _called(value)
