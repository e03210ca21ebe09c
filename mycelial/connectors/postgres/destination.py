"""Writing PostgreSQL: COPY, checkpoint and fence in one transaction."""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mycelial.connectors.postgres import catalog
from mycelial.connectors.postgres.connection import LOST, connect
from mycelial.sdk.envelope import Column
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import (
    CHECKPOINT_TABLE,
    CheckpointSql,
    Dialect,
    TableName,
    create_table,
    parse_table,
    quote_name,
    upsert,
)
from mycelial.sdk.kit.tabledest import TableDestination
from mycelial.sdk.kit.types import Fit, Stored, fit_postgres, postgres_type
from mycelial.sdk.kit.writemodes import ExistingTable, TablePlan

if TYPE_CHECKING:
    from mycelial.connectors.postgres.config import PostgresDestinationConfig
    from mycelial.sdk.plugin import Context


class PostgresRules:
    """PostgreSQL's side of the type table."""

    label = "PostgreSQL"

    def store(self, column: Column) -> Stored | None:
        """Return how a column is stored."""
        return postgres_type(column)

    def fit(self, column: Column, declared: str) -> Fit:
        """Compare a column with one that exists."""
        return fit_postgres(column, declared)

    def same_name(self, name: str) -> str:
        """Names are exact: they are always quoted."""
        return name


class PostgresDestination(TableDestination):
    """One table of a PostgreSQL database."""

    area = "PG"
    unsure = LOST

    def __init__(self, config: PostgresDestinationConfig) -> None:
        super().__init__(parse_table(config.table), config.mode, config.key)
        self._config: Any = config
        self.rules = PostgresRules()
        schema = config.checkpoint_schema or self._target.schema
        self._checkpoints = CheckpointSql(TableName(CHECKPOINT_TABLE, schema), Dialect.POSTGRES)

    def _connect(self, ctx: Context, purpose: str) -> Session:
        return connect(self._config, ctx, purpose)

    def _inspect(self, session: Session, table: TableName) -> ExistingTable | None:
        return catalog.describe(session, table)

    def _create_run_table(self, staging: TableName) -> Sequence[str]:
        # Keys come at the swap: building an index once is far cheaper than keeping it row by row.
        like = f"LIKE {self._target.quoted} INCLUDING ALL EXCLUDING INDEXES EXCLUDING COMMENTS"
        return (f"CREATE TABLE {staging.quoted} ({like})",)

    def _swap(self, staging: TableName) -> None:
        session, target = self._live(), self._target
        # Keeps other writers out, so that no row of theirs falls between the check and the swap.
        session.execute(f"LOCK TABLE {target.quoted} IN SHARE ROW EXCLUSIVE MODE")
        if not catalog.is_plain(session, target):
            # Row by row keeps what hangs on the table, and old snapshots keep seeing old rows.
            _, table = self._ready()
            session.execute(f"DELETE FROM {target.quoted}")
            session.execute(self._copy_rows(staging, target, table))
            session.execute(f"DROP TABLE {staging.quoted}")
            return
        key = catalog.key_constraint(session, target)
        session.execute(f"DROP TABLE {target.quoted}")
        session.execute(f"ALTER TABLE {staging.quoted} RENAME TO {quote_name(target.name)}")
        if key is not None:
            name, definition = key
            session.execute(
                f"ALTER TABLE {target.quoted} ADD CONSTRAINT {quote_name(name)} {definition}"
            )

    def _create_unit_temp(self, table: TablePlan) -> str:
        wired = dict(table.wire)
        columns = [(name, _wire_type(name, wired[name]), True) for name, _, _ in table.staged]
        temp = create_table(self.unit_temp, columns, if_not_exists=False)
        body = temp.removeprefix("CREATE TABLE ")
        return f"CREATE TEMPORARY TABLE {body} ON COMMIT DROP"

    def _merge(self, table: TablePlan) -> Sequence[str]:
        target = self._destination(table)
        if table.mode != "upsert":
            copy = _copy_casting(self.unit_temp, target, table, self._existing_types())
            return (copy, f"DROP TABLE {_temp(self.unit_temp)}")
        casting = _casting_select(self.unit_temp, table, self._existing_types())
        return (
            upsert(target, f"({casting}) AS staged", table.columns, table.key, "_mycelial_place"),
            f"DROP TABLE {_temp(self.unit_temp)}",
        )

    def _existing_types(self) -> dict[str, str]:
        existing = self._inspect(self._live(), self._target)
        return {c.name: c.declared for c in existing.columns} if existing else {}


def _wire_type(name: str, wire: str) -> str:
    stored = postgres_type(Column(name, wire))
    assert stored is not None
    return stored.declared


def _temp(table: TableName) -> str:
    return f"pg_temp.{quote_name(table.name)}"


def _cast(name: str, declared: str) -> str:
    """Cast by what the column is, but let assignment judge lengths: an explicit cast to
    varchar(2) cuts text off without a word."""
    base = declared.partition("(")[0] if "[]" not in declared else declared
    if base in ("bit", "varbit"):
        return f"{quote_name(name)}::{declared}"
    if base in ("varchar", "char", "bpchar", "text"):
        return quote_name(name)
    return f"{quote_name(name)}::{base}"


def _casting_fields(table: TablePlan, types: dict[str, str]) -> str:
    return ", ".join(f"{_cast(name, types.get(name, 'text'))} AS {quote_name(name)}"
                     for name in table.columns)  # fmt: skip


def _casting_select(temp: TableName, table: TablePlan, types: dict[str, str]) -> str:
    # Rows of one session's COPY lie in the order they came, so their place says which is last.
    return f"SELECT {_casting_fields(table, types)}, ctid AS _mycelial_place FROM {_temp(temp)}"


def _copy_casting(
    temp: TableName, target: TableName, table: TablePlan, types: dict[str, str]
) -> str:
    columns = ", ".join(quote_name(name) for name in table.columns)
    fields = _casting_fields(table, types)
    return f"INSERT INTO {target.quoted} ({columns}) SELECT {fields} FROM {_temp(temp)}"
