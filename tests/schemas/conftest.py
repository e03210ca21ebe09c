"""A small catalog, so that the schemas are tested without any real connector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import pytest
from pydantic import Field, model_validator

from mycelial.schemas.base import Duration, PluginConfig, SecretRef, Size
from mycelial.schemas.catalog import Catalog, entry_for, foreign_entry
from mycelial.schemas.validate import Validation, validate


class Sqlite(PluginConfig):
    """A table in a SQLite file."""

    path: str
    """Path of the file."""
    table: str
    """Name of the table."""
    cursor: str | None = None
    """Column that orders an incremental read."""
    batch_rows: int = Field(default=1000, gt=0)
    """Rows per batch."""


class Postgres(PluginConfig):
    """A table in PostgreSQL."""

    connection_fields: ClassVar[frozenset[str]] = frozenset(
        {"host", "database", "user", "password", "connect_timeout"}
    )
    host: str
    """Where the server is."""
    database: str
    """Name of the database."""
    user: str = "mycelial"
    """Who connects."""
    password: SecretRef | None = None
    """The password, by reference."""
    connect_timeout: Duration = 10.0
    """How long to wait for a connection."""
    table: str
    """Name of the table."""
    mode: Literal["append", "upsert"] = "append"
    """What happens to rows that are there already."""
    key: tuple[str, ...] = ()
    """Columns that identify a row."""

    @model_validator(mode="after")
    def _upsert_has_a_key(self) -> Postgres:
        if self.mode == "upsert" and not self.key:
            raise ValueError("mode upsert needs a key")
        return self


class Tail(PluginConfig):
    """Follows a log."""

    continuous_by_default: ClassVar[bool] = True
    path: str
    """Path of the log."""


class Filter(PluginConfig):
    """Keep the rows that match."""

    shorthand: ClassVar[str | None] = "where"
    where: str = Field(examples=["qty > 0"])
    """The condition."""


class Rename(PluginConfig):
    """Give columns other names."""

    shorthand: ClassVar[str | None] = "columns"
    columns: dict[str, str]
    """Old name -> new name."""
    strict: bool = True
    """Whether a missing column is an error."""


class Sql(PluginConfig):
    """One SELECT over `input`."""

    shorthand: ClassVar[str | None] = "query"
    query: str
    """The statement."""
    params: dict[str, str] = Field(default_factory=dict)
    """Bound values by name."""
    memory: Size = 64 * 1024 * 1024
    """How much memory it may take."""


FOREIGN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["url"],
    "properties": {
        "url": {"type": "string"},
        "apiToken": {"x-secret": True, "type": "object"},
        "pollEvery": {"type": "string", "format": "duration", "default": 60.0},
        "level": {"enum": ["low", "high"]},
    },
}


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog(
        [
            entry_for("sqlite", "source", Sqlite, summary="Reads and writes SQLite."),
            entry_for("sqlite", "destination", Sqlite),
            entry_for("postgres", "source", Postgres),
            entry_for("postgres", "destination", Postgres),
            entry_for("tail", "source", Tail),
            foreign_entry("crm", "source", FOREIGN),
            entry_for("filter", "transform", Filter),
            entry_for("rename", "transform", Rename),
            entry_for("sql", "transform", Sql),
        ]
    )


@pytest.fixture
def check(catalog: Catalog) -> Callable[..., Validation]:
    """Validate files given as texts; one text stands for `w.yaml`."""

    def run(files: str | Mapping[str, str], **options: object) -> Validation:
        texts = {"w.yaml": files} if isinstance(files, str) else files
        data = {path: text.encode() for path, text in texts.items()}
        return validate(data, catalog, **options)  # type: ignore[arg-type]

    return run


def workflow(name: str = "orders", *, spec: str = "", meta: str = "", end: str = "") -> str:
    return (
        f"apiVersion: mycelial/v1\nkind: Workflow\nmetadata: {{ name: {name}{meta} }}\nspec:\n"
        + (spec or "  daemon: shop-01\n")
        + "  source: { sqlite: { path: shop.db, table: orders } }\n"
        + (end or "  destination: { sqlite: { path: out.db, table: orders } }\n")
    )


@pytest.fixture
def make_workflow() -> Callable[..., str]:
    return workflow
