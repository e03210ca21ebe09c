"""SQL as text, safely: names, literals, the checkpoint table. Pure.

ADBC binds parameters only as Arrow batches, and not in DDL or COPY, so literals are quoted here;
tests send every kind through both servers.
"""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from mycelial.sdk.envelope import Checkpoint, FenceToken, Part, Position
from mycelial.sdk.errors import Permanent

CHECKPOINT_TABLE = "_mycelial_checkpoint"
FENCE_PART = Part("")
"""The row that holds a scope's fence; no part has an empty name."""


class Dialect(enum.StrEnum):
    """A database's way with literals."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


@dataclass(frozen=True, slots=True)
class TableName:
    """A table, with its schema where one is given."""

    name: str
    schema: str = ""

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name

    @property
    def quoted(self) -> str:
        """Return the name as SQL."""
        table = quote_name(self.name)
        return f"{quote_name(self.schema)}.{table}" if self.schema else table

    def beside(self, name: str) -> TableName:
        """Return another table of the same schema."""
        return TableName(name, self.schema)


def parse_table(text: str) -> TableName:
    """Read `table`, `schema.table` or `"odd.schema"."odd table"`. Raises: Permanent."""
    parts: list[str] = []
    rest = text
    while True:
        if rest.startswith('"'):
            part, rest = _quoted_part(rest, text)
        else:
            part, dot, tail = rest.partition(".")
            rest = dot + tail
        parts.append(part)
        if not rest:
            break
        if not rest.startswith("."):
            raise _bad_table(text)
        rest = rest[1:]
    if len(parts) > 2 or not all(parts) or "\0" in text:
        raise _bad_table(text)
    return TableName(parts[-1], parts[0] if len(parts) == 2 else "")


def _quoted_part(rest: str, whole: str) -> tuple[str, str]:
    index, part = 1, ""
    while True:
        end = rest.find('"', index)
        if end < 0:
            raise _bad_table(whole)
        part += rest[index:end]
        if rest[end + 1 : end + 2] != '"':
            return part, rest[end + 1 :]
        part += '"'
        index = end + 2


def _bad_table(text: str) -> Permanent:
    return Permanent(
        "MYC-TYPE-001",
        f"{text!r} is no table name",
        fix='write table, schema.table, or "odd schema"."odd.table"',
    )


def quote_name(name: str) -> str:
    """Return a name as SQL. Raises: Permanent for names that no database can hold."""
    if not name or "\0" in name:
        raise Permanent("MYC-TYPE-002", f"{name!r} cannot name a column or table", fix="rename it")
    return '"' + name.replace('"', '""') + '"'


def names(columns: Sequence[str]) -> str:
    """Return quoted names with commas between."""
    return ", ".join(quote_name(column) for column in columns)


def quote_text(text: str, dialect: Dialect) -> str:
    """Return text as a literal. Raises: Permanent for a NUL character in PostgreSQL."""
    doubled = text.replace("'", "''")
    if dialect is Dialect.SQLITE:
        # A NUL ends the statement's text, so such a literal is spelled in hexadecimal.
        return f"CAST(x'{text.encode().hex()}' AS TEXT)" if "\0" in text else f"'{doubled}'"
    if "\0" in text:
        raise Permanent("MYC-TYPE-003", "PostgreSQL text cannot hold a NUL character")
    # The E form means the same under every setting of standard_conforming_strings.
    if "\\" in text:
        return " E'" + doubled.replace("\\", "\\\\") + "'"
    return f"'{doubled}'"


def create_table(
    table: TableName,
    columns: Sequence[tuple[str, str, bool]],
    key: Sequence[str] = (),
    *,
    if_not_exists: bool = True,
) -> str:
    """Return DDL; a column is (name, type, nullable). Columns of the key are NOT NULL."""
    lines = [
        f"  {quote_name(name)} {kind}{'' if nullable and name not in key else ' NOT NULL'}"
        for name, kind, nullable in columns
    ]
    if key:
        lines.append(f"  PRIMARY KEY ({names(key)})")
    body = ",\n".join(lines)
    return f"CREATE TABLE {'IF NOT EXISTS ' if if_not_exists else ''}{table.quoted} (\n{body}\n)"


def add_column(table: TableName, name: str, kind: str) -> str:
    """Return DDL that adds a nullable column."""
    return f"ALTER TABLE {table.quoted} ADD COLUMN {quote_name(name)} {kind}"


def upsert(
    target: TableName, source: str, columns: Sequence[str], key: Sequence[str], order: str
) -> str:
    """Return the statement that merges `source` into `target`; of rows with one key, the one
    that is last by `order` wins."""
    updates = ", ".join(
        f"{quote_name(column)} = excluded.{quote_name(column)}"
        for column in columns
        if column not in key
    )
    action = f"DO UPDATE SET {updates}" if updates else "DO NOTHING"
    return (
        f"INSERT INTO {target.quoted} ({names(columns)}) SELECT {names(columns)} FROM ("
        f"SELECT *, row_number() OVER (PARTITION BY {names(key)} ORDER BY {order} DESC) "
        f"AS _mycelial_rank FROM {source}) AS latest WHERE _mycelial_rank = 1 "
        f"ON CONFLICT ({names(key)}) {action}"
    )


@dataclass(frozen=True, slots=True)
class CheckpointSql:
    """Statements on the checkpoint table; the same for both databases."""

    table: TableName
    dialect: Dialect

    def create(self) -> str:
        """Return the table's DDL."""
        truth = "BOOLEAN" if self.dialect is Dialect.POSTGRES else "INTEGER"
        kinds = {"epoch": "BIGINT", "attempt": "BIGINT", "seq": "BIGINT", "rows": "BIGINT"}
        columns = [
            (name, kinds.get(name, truth if name == "ends_run" else "TEXT"), False)
            for name in ("scope", "part", *_CHECKPOINT_VALUES)
        ]
        return create_table(self.table, columns, ("scope", "part"))

    def select(self, scope: str) -> str:
        """Return the query for a scope's rows, the fence's row among them."""
        return (
            "SELECT part, epoch, attempt, seq, position, rows, "
            f"CASE WHEN ends_run THEN 1 ELSE 0 END AS ends_run FROM {self.table.quoted} "
            f"WHERE scope = {self._text(scope)}"
        )

    def raise_fence(self, scope: str, fence: FenceToken, now: str) -> str:
        """Return the statement that stores a fence; it affects no row if a higher one is there."""
        row = Checkpoint(scope, FENCE_PART, fence, 0, Position(""), 0)
        mine = quote_name(self.table.name)
        return (
            f"{self._insert(row, now)} ON CONFLICT (scope, part) DO UPDATE SET "
            "epoch = excluded.epoch, attempt = excluded.attempt, updated_at = excluded.updated_at "
            f"WHERE ({mine}.epoch, {mine}.attempt) <= (excluded.epoch, excluded.attempt)"
        )

    def check_fence(self, scope: str, fence: FenceToken, now: str) -> str:
        """Return the statement that locks the fence's row and affects it only if not fenced."""
        return (
            f"UPDATE {self.table.quoted} SET epoch = {fence.epoch}, attempt = {fence.attempt}, "
            f"updated_at = {self._text(now)} WHERE scope = {self._text(scope)} AND part = '' "
            f"AND (epoch, attempt) <= ({fence.epoch}, {fence.attempt})"
        )

    def store(self, checkpoint: Checkpoint, now: str) -> str:
        """Return the statement that stores a part's checkpoint and adds up its rows."""
        mine = quote_name(self.table.name)
        sets = ", ".join(
            f"{name} = excluded.{name}" for name in _CHECKPOINT_VALUES if name != "rows"
        )
        return (
            f"{self._insert(checkpoint, now)} ON CONFLICT (scope, part) DO UPDATE SET {sets}, "
            f"rows = {mine}.rows + excluded.rows"
        )

    def _insert(self, row: Checkpoint, now: str) -> str:
        truth = ("TRUE", "FALSE") if self.dialect is Dialect.POSTGRES else ("1", "0")
        values = ", ".join(
            (
                self._text(row.scope),
                self._text(row.part),
                str(row.fence.epoch),
                str(row.fence.attempt),
                str(row.seq),
                self._text(row.position),
                str(row.rows),
                truth[0 if row.ends_run else 1],
                self._text(now),
            )
        )
        columns = ", ".join(("scope", "part", *_CHECKPOINT_VALUES))
        return f"INSERT INTO {self.table.quoted} ({columns}) VALUES ({values})"

    def _text(self, text: str) -> str:
        return quote_text(text, self.dialect)


_CHECKPOINT_VALUES = ("epoch", "attempt", "seq", "position", "rows", "ends_run", "updated_at")
