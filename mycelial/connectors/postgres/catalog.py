"""What PostgreSQL's catalog says about a table or query."""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

from dataclasses import dataclass

from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import Dialect, TableName, quote_text
from mycelial.sdk.kit.types import short_postgres_type
from mycelial.sdk.kit.writemodes import ExistingColumn, ExistingTable


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column by `format_type`."""

    name: str
    declared: str
    nullable: bool


def _regclass(table: TableName) -> str:
    return f"to_regclass({quote_text(table.quoted, Dialect.POSTGRES)})"


def exists(session: Session, table: TableName) -> bool:
    """Tell whether a relation is there."""
    return bool(session.rows(f"SELECT {_regclass(table)} IS NOT NULL AS found")[0][0])


def table_columns(session: Session, table: TableName) -> list[CatalogColumn]:
    """Return the columns of a relation, in order; none when it is not there."""
    rows = session.rows(
        "SELECT attname::text AS name, format_type(atttypid, atttypmod) AS declared, "
        "NOT attnotnull AS nullable FROM pg_attribute "
        f"WHERE attrelid = {_regclass(table)} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return [CatalogColumn(*row) for row in rows]


def query_columns(session: Session, query: str) -> list[CatalogColumn]:
    """Return the columns of a query, with their types' modifiers, by way of a temporary view."""
    session.execute("BEGIN")
    try:
        session.execute(f"CREATE TEMPORARY VIEW _mycelial_probe AS {query}")
        return table_columns(session, TableName("_mycelial_probe", "pg_temp"))
    finally:
        session.execute("ROLLBACK")


def unique_keys(session: Session, table: TableName) -> list[tuple[str, ...]]:
    """Return the column lists of unique indexes over plain NOT NULL columns, the primary key
    first; only those that hold for all rows, at once."""
    rows = session.rows(
        "SELECT i.indisprimary AS pk, i.indexrelid::bigint AS id, a.attname::text AS name, "
        "a.attnotnull AS filled "
        "FROM pg_index i, unnest(i.indkey::int[]) WITH ORDINALITY AS k(num, pos) "
        "LEFT JOIN LATERAL (SELECT attname, attnotnull FROM pg_attribute "
        f"WHERE attrelid = {_regclass(table)} AND attnum = k.num) a ON true "
        f"WHERE i.indrelid = {_regclass(table)} AND i.indisunique AND i.indimmediate "
        "AND i.indisvalid AND i.indpred IS NULL AND k.pos <= i.indnkeyatts "
        "ORDER BY i.indisprimary DESC, i.indexrelid, k.pos"
    )
    found: dict[tuple[bool, int], list[tuple[str | None, bool | None]]] = {}
    for primary, index, name, filled in rows:
        found.setdefault((not primary, index), []).append((name, filled))
    return [
        tuple(str(name) for name, _ in members)
        for members in found.values()
        if all(name is not None for name, _ in members)
    ]


def primary_key(session: Session, table: TableName) -> tuple[str, ...]:
    """Return the primary key's columns, or none."""
    rows = session.rows(
        "SELECT a.attname::text AS name FROM pg_index i, "
        "unnest(i.indkey::int[]) WITH ORDINALITY AS k(num, pos), pg_attribute a "
        f"WHERE i.indrelid = {_regclass(table)} AND i.indisprimary AND k.pos <= i.indnkeyatts "
        "AND a.attrelid = i.indrelid AND a.attnum = k.num ORDER BY k.pos"
    )
    return tuple(name for (name,) in rows)


def rows_estimate(session: Session, table: TableName) -> int | None:
    """Return the planner's idea of the rows, or None when it has none."""
    rows = session.rows(
        f"SELECT reltuples::bigint AS n FROM pg_class WHERE oid = {_regclass(table)}"
    )
    return int(rows[0][0]) if rows and rows[0][0] is not None and rows[0][0] >= 0 else None


def describe(session: Session, table: TableName) -> ExistingTable | None:
    """Return a table as a destination sees it, or None when it is not there."""
    rows = session.rows(
        "SELECT attname::text AS name, format_type(atttypid, atttypmod) AS declared, "
        "NOT attnotnull AS nullable, (atthasdef OR attidentity <> '') AS filled, "
        "(attgenerated <> '') AS generated FROM pg_attribute "
        f"WHERE attrelid = {_regclass(table)} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    if not rows and not exists(session, table):
        return None
    columns = tuple(
        ExistingColumn(name, short_postgres_type(declared), nullable, filled, generated)
        for name, declared, nullable, filled, generated in rows
    )
    unique = tuple(frozenset(key) for key in unique_keys(session, table))
    return ExistingTable(columns, primary_key(session, table), unique)


def is_plain(session: Session, table: TableName) -> bool:
    """Tell whether nothing but its primary key hangs on a table, and it is empty, so that another
    may take its place: no views, foreign keys, triggers, policies, grants, publications, other
    indexes, inheritance or partitions."""
    oid = f"{_regclass(table)}::oid"
    rows = session.rows(
        "SELECT c.relkind = 'r' AND c.relacl IS NULL AND NOT c.relrowsecurity "
        "AND NOT c.relispartition AND c.relowner = current_user::regrole "
        f"AND NOT EXISTS (SELECT FROM {table.quoted}) "
        f"AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = {oid} AND NOT indisprimary) "
        f"AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {oid}) "
        f"AND NOT EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = {oid}) "
        f"AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = {oid} OR inhparent = {oid}) "
        f"AND NOT EXISTS (SELECT FROM pg_description WHERE objoid = {oid}) "
        f"AND NOT EXISTS (SELECT FROM pg_constraint WHERE (conrelid = {oid} OR "
        f"confrelid = {oid}) AND contype <> 'p') "
        f"AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND "
        "(attidentity <> '' OR attacl IS NOT NULL OR atthasdef)) "
        f"AND NOT EXISTS (SELECT FROM pg_depend WHERE refobjid = {oid} AND deptype = 'n' "
        "AND classid = 'pg_rewrite'::regclass) AS plain "
        f"FROM pg_class c WHERE c.oid = {oid}"
    )
    return bool(rows and rows[0][0])


def key_constraint(session: Session, table: TableName) -> tuple[str, str] | None:
    """Return the name and the definition (`PRIMARY KEY (id)`) of the primary key."""
    rows = session.rows(
        "SELECT conname::text AS name, pg_get_constraintdef(oid) AS definition "
        f"FROM pg_constraint WHERE conrelid = {_regclass(table)}::oid AND contype = 'p'"
    )
    return (str(rows[0][0]), str(rows[0][1])) if rows else None
