"""What a manifest may say about PostgreSQL. Loads pydantic: only where manifests are checked."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from mycelial.schemas.base import PluginConfig, SecretRef

_CONNECTION = frozenset(
    {"host", "port", "database", "user", "password", "sslmode", "sslrootcert", "connect_timeout"}
)
_EXAMPLE: dict[str, Any] = {
    "host": "db.internal",
    "database": "dw",
    "user": "loader",
    "password": {"secret": "warehouse-pw"},
}


class _Connection(PluginConfig):
    connection_fields: ClassVar[frozenset[str]] = _CONNECTION

    host: str = Field(default="localhost", min_length=1)
    """Name or address of the server, or the directory of its Unix socket."""
    port: int = Field(default=5432, ge=1, le=65535)
    """The server's port."""
    database: str = Field(min_length=1)
    """The database."""
    user: str = Field(min_length=1)
    """The role to log in as."""
    password: SecretRef | None = None
    """The role's password, by reference: `{secret: warehouse-pw}`."""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """How much TLS is wanted; `verify-full` also checks who the server is."""
    sslrootcert: str = ""
    """File with the certificates that `verify-ca` and `verify-full` trust."""
    connect_timeout: int = Field(default=10, ge=1, le=600)
    """Seconds to wait for a connection."""


class PostgresSourceConfig(_Connection):
    """Read a table or a query of a PostgreSQL database."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {**_EXAMPLE, "table": "sales.orders", "cursor": "id"},
                {**_EXAMPLE, "query": "select id, total from paid_orders", "key": ["id"]},
            ]
        }
    )

    table: str = ""
    """The table to read: `orders`, `sales.orders`, or quoted, `"Sales"."Order items"`."""
    query: str = ""
    """A SELECT to read instead of a table."""
    cursor: str = ""
    """Column that only grows: each read takes what is above the last value. Without one every
    run reads the whole table."""
    key: list[str] = Field(default_factory=list)
    """Columns that identify a row, where the catalog does not say (views, queries)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Types for columns, by name: `{amount: decimal128(18, 4), code: utf8}`. The server casts."""

    @model_validator(mode="after")
    def _one_origin(self) -> PostgresSourceConfig:
        if bool(self.table) == bool(self.query):
            raise ValueError("name a table or give a query, one of the two")
        return self


class PostgresDestinationConfig(_Connection):
    """Write a table of a PostgreSQL database."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {**_EXAMPLE, "table": "orders"},
                {**_EXAMPLE, "table": "sales", "mode": "upsert", "key": ["site", "id"]},
            ]
        }
    )

    table: str = Field(min_length=1)
    """The table to write; it is made when it is not there."""
    mode: Literal["auto", "append", "truncate", "replace", "upsert"] = "auto"
    """`append` adds rows. `truncate` empties the table when a run begins. `replace` swaps a
    finished run in, so that readers never see half of one. `upsert` replaces rows with the same
    key. `auto` appends what comes from a cursor and replaces with snapshots."""
    key: list[str] = Field(default_factory=list)
    """Columns that identify a row: what upsert goes by (default: the source's key). Given here,
    they become the primary key of a table that is made, in any mode."""
    checkpoint_schema: str = ""
    """Schema for the table `_mycelial_checkpoint`; the target's unless given."""
