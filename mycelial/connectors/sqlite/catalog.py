"""What SQLite's schema says about a table, view or query."""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

from dataclasses import dataclass

from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import Dialect, TableName, quote_text
from mycelial.sdk.kit.writemodes import ExistingColumn, ExistingTable


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column as declared; `place_in_key` counts from 1."""

    name: str
    declared: str
    nullable: bool = True
    place_in_key: int = 0
    filled: bool = False
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A table, view or query. `rowid` says that rows have one; `unique` are the column sets of
    unique indexes."""

    columns: tuple[CatalogColumn, ...]
    rowid: str = ""
    unique: tuple[tuple[str, ...], ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Return the primary key's columns, in its order."""
        members = sorted((c.place_in_key, c.name) for c in self.columns if c.place_in_key)
        return tuple(name for _, name in members)

    @property
    def key_is_rowid(self) -> bool:
        """Tell whether the primary key is another name of the rowid."""
        members = [c for c in self.columns if c.place_in_key]
        return bool(self.rowid) and len(members) == 1 and members[0].declared.upper() == "INTEGER"


def _text(value: str) -> str:
    return quote_text(value, Dialect.SQLITE)


def _columns(session: Session, name: str, schema: str) -> tuple[CatalogColumn, ...]:
    rows = session.rows(
        'SELECT name, type, "notnull", pk, dflt_value IS NOT NULL AS filled, hidden '
        f"FROM pragma_table_xinfo({_text(name)}, {_text(schema)}) WHERE hidden <> 1 ORDER BY cid"
    )
    return tuple(
        CatalogColumn(str(n), str(kind or ""), not notnull, pk, bool(filled), hidden in (2, 3))
        for n, kind, notnull, pk, filled, hidden in rows
    )


def look_at_table(session: Session, table: TableName) -> Shape | None:
    """Return a table's or view's shape, or None when it is not there."""
    kinds = session.rows(
        f"SELECT type, wr FROM pragma_table_list({_text(table.name)}) WHERE schema = 'main'"
    )
    if not kinds:
        return None
    kind, without_rowid = kinds[0]
    columns = _columns(session, table.name, "main")
    taken = {c.name.lower() for c in columns}
    free = next((n for n in ("rowid", "_rowid_", "oid") if n not in taken), "")
    has_rowid = kind == "table" and not without_rowid
    indexes = session.rows(
        "SELECT l.name AS name, i.seqno AS seqno, coalesce(i.name, '') AS column_name "
        f"FROM pragma_index_list({_text(table.name)}, 'main') l, pragma_index_info(l.name) i "
        'WHERE l."unique" AND NOT l.partial ORDER BY l.seq, i.seqno'
    )
    unique: dict[str, list[str]] = {}
    for index, _, column in indexes:
        unique.setdefault(index, []).append(column)
    return Shape(columns, free if has_rowid else "", tuple(tuple(u) for u in unique.values()))


def look_at_query(session: Session, query: str) -> Shape:
    """Return a query's shape by way of a temporary view; expressions have no declared type."""
    session.execute(f"CREATE TEMP VIEW _mycelial_probe AS {query}")
    try:
        return Shape(_columns(session, "_mycelial_probe", "temp"))
    finally:
        session.execute("DROP VIEW temp._mycelial_probe")


def describe(session: Session, table: TableName) -> ExistingTable | None:
    """Return a table as a destination sees it, or None when it is not there."""
    shape = look_at_table(session, table)
    if shape is None:
        return None
    columns = tuple(
        # The rowid fills itself, whatever the schema says about NULL.
        ExistingColumn(
            c.name,
            c.declared,
            c.nullable,
            c.filled or (shape.key_is_rowid and c.place_in_key > 0),
            c.generated,
        )
        for c in shape.columns
    )
    sets = [shape.key, *shape.unique] if shape.key else list(shape.unique)
    unique = tuple(frozenset(name.lower() for name in names) for names in sets)
    return ExistingTable(columns, shape.key, unique)


def statement_of(session: Session, table: TableName) -> str:
    """Return the CREATE TABLE statement, as the file keeps it."""
    rows = session.rows(
        f"SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = {_text(table.name)}"
    )
    return str(rows[0][0]) if rows else ""


def is_referred_to(session: Session, table: TableName) -> bool:
    """Tell whether an index, trigger, view or another table's foreign key names the table."""
    name = _text(table.name)
    rows = session.rows(
        "SELECT count(*) AS n FROM sqlite_schema WHERE sql IS NOT NULL AND name <> "
        f"{name} COLLATE NOCASE AND (tbl_name = {name} COLLATE NOCASE "
        f"OR (type IN ('view', 'trigger') AND instr(lower(sql), lower({name})) > 0) "
        f"OR (type = 'table' AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(sqlite_schema.name) "
        f'f WHERE f."table" = {name} COLLATE NOCASE)))'
    )
    return bool(rows[0][0])
