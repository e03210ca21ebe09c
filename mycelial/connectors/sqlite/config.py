"""What a manifest may say about SQLite. Loads pydantic: only where manifests are checked."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from mycelial.schemas.base import Duration, PluginConfig


class _Connection(PluginConfig):
    connection_fields: ClassVar[frozenset[str]] = frozenset({"path", "lock_timeout"})

    path: str = Field(min_length=1)
    """The database file."""
    lock_timeout: Duration = 10.0
    """How long to wait while another program has the file locked, before trying again later."""


class SqliteSourceConfig(_Connection):
    """Read a table or a query of a SQLite file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "shop.db", "table": "orders", "cursor": "id"},
                {"path": "shop.db", "query": "select id, total from paid_orders", "key": ["id"]},
            ]
        }
    )

    table: str = ""
    """The table or view to read."""
    query: str = ""
    """A SELECT to read instead of a table."""
    cursor: str = ""
    """Column that only grows: each read takes what is above the last value. Without one every
    run reads the whole table."""
    key: list[str] = Field(default_factory=list)
    """Columns that identify a row, where the schema does not say (views, queries)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Types for columns, by name, where SQLite's declarations do not hold:
    `{amount: text, created: int64}`. A value that does not fit stops the read."""

    @model_validator(mode="after")
    def _one_origin(self) -> SqliteSourceConfig:
        if bool(self.table) == bool(self.query):
            raise ValueError("name a table or give a query, one of the two")
        return self


class SqliteDestinationConfig(_Connection):
    """Write a table of a SQLite file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "hub.db", "table": "orders"},
                {"path": "hub.db", "table": "sales", "mode": "upsert", "key": ["site", "id"]},
            ]
        }
    )

    table: str = Field(min_length=1)
    """The table to write; file and table are made when they are not there."""
    mode: Literal["auto", "append", "truncate", "replace", "upsert"] = "auto"
    """`append` adds rows. `truncate` empties the table when a run begins. `replace` swaps a
    finished run in, so that readers never see half of one. `upsert` replaces rows with the same
    key. `auto` appends what comes from a cursor and replaces with snapshots."""
    key: list[str] = Field(default_factory=list)
    """Columns that identify a row: what upsert goes by (default: the source's key). Given here,
    they become the primary key of a table that is made, in any mode."""
