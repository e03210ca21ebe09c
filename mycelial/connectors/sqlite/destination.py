"""Writing SQLite: a unit is held as Arrow batches and lands in one short transaction."""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mycelial.connectors.sqlite import catalog
from mycelial.connectors.sqlite.connection import UNSURE, connect, main_table
from mycelial.sdk.envelope import Column
from mycelial.sdk.errors import LossyType
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import (
    CHECKPOINT_TABLE,
    CheckpointSql,
    Dialect,
    TableName,
    create_table,
    quote_name,
    upsert,
)
from mycelial.sdk.kit.tabledest import TableDestination
from mycelial.sdk.kit.types import Fit, Stored, fit_sqlite, sqlite_type
from mycelial.sdk.kit.writemodes import ExistingTable, TablePlan

if TYPE_CHECKING:
    from arro3.core import RecordBatch

    from mycelial.connectors.sqlite.config import SqliteDestinationConfig
    from mycelial.sdk.plugin import Context


class SqliteRules:
    """SQLite's side of the type table."""

    label = "SQLite"

    def store(self, column: Column) -> Stored | None:
        """Return how a column is stored."""
        return sqlite_type(column)

    def fit(self, column: Column, declared: str) -> Fit:
        """Compare a column with one that exists."""
        return fit_sqlite(column, declared)

    def same_name(self, name: str) -> str:
        """Names differ by more than case."""
        return name.lower()


class SqliteDestination(TableDestination):
    """One table of a SQLite file."""

    area = "SQLITE"
    begin = "BEGIN IMMEDIATE"
    unsure = UNSURE

    def __init__(self, config: SqliteDestinationConfig) -> None:
        super().__init__(main_table(config.table), config.mode, config.key)
        self._config: Any = config
        self.rules = SqliteRules()
        self._checkpoints = CheckpointSql(TableName(CHECKPOINT_TABLE), Dialect.SQLITE)

    def _connect(self, ctx: Context, purpose: str) -> Session:
        path = ctx.path(self._config.path, write=True)
        timeout = self._config.lock_timeout
        if purpose != "plan":
            return connect(path, write=True, lock_timeout_seconds=timeout)
        return connect(path if path.exists() else None, write=False, lock_timeout_seconds=timeout)

    def _inspect(self, session: Session, table: TableName) -> ExistingTable | None:
        return catalog.describe(session, table)

    def _create_run_table(self, staging: TableName) -> Sequence[str]:
        session = self._live()
        existing = self._inspect(session, self._target)
        assert existing is not None
        columns = [(c.name, c.declared, c.nullable) for c in existing.columns if not c.generated]
        return (create_table(staging, columns, existing.key),)

    def _swap(self, staging: TableName) -> None:
        session, target = self._live(), self._target
        _, table = self._ready()
        old, new = (catalog.statement_of(session, t) for t in (target, staging))
        same = old.partition("(")[2] == new.partition("(")[2]
        if same and not catalog.is_referred_to(session, target):
            session.execute(f"DROP TABLE {target.quoted}")
            session.execute(f"ALTER TABLE {staging.quoted} RENAME TO {quote_name(target.name)}")
            return
        session.execute(f"DELETE FROM {target.quoted}")
        session.execute(self._copy_rows(staging, target, table))
        session.execute(f"DROP TABLE {staging.quoted}")

    def _create_unit_temp(self, table: TablePlan) -> str:
        body = create_table(self.unit_temp, [(n, k, True) for n, k, _ in table.staged])
        return body.replace("CREATE TABLE", "CREATE TEMP TABLE", 1)

    def _merge(self, table: TablePlan) -> Sequence[str]:
        temp = f"temp.{quote_name(self.unit_temp.name)}"
        staged = f"(SELECT *, rowid AS _mycelial_place FROM {temp}) AS staged"
        target = self._destination(table)
        return (
            upsert(target, staged, table.columns, table.key, "_mycelial_place"),
            f"DROP TABLE {temp}",
        )

    def _check_values(self, batch: RecordBatch) -> None:
        # SQLite has no NaN: it would keep NULL. A sum is NaN if a value is.
        from arro3.compute import sum as total
        from arro3.core import DataType

        for index, name in enumerate(batch.schema.names):
            column = batch.column(index)
            if not DataType.is_floating(column.type) or column.null_count == len(column):
                continue
            if not math.isnan(total(column).as_py()):
                continue
            for row, value in enumerate(column.to_pylist()):
                if value is not None and math.isnan(value):
                    raise LossyType(
                        "MYC-SQLITE-035",
                        f'column "{name}" of {self._target}, row {row} of the batch: '
                        "SQLite cannot keep NaN",
                        fix="turn NaN into NULL or text with a transform",
                    )
