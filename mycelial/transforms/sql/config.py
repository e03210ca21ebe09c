"""What a manifest may say about SQL. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from mycelial.schemas.base import PluginConfig


class SqlConfig(PluginConfig):
    """Replace each batch by a query's result over it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "select id, cents / 100.0 as eur from input where void = 0"},
                {
                    "query": "select *, $site as site from input",
                    "params": {"site": "${daemon.labels.site}"},
                },
            ]
        }
    )
    shorthand: ClassVar[str | None] = "query"

    query: str = Field(min_length=1)
    """One SELECT over the table `input`, in DuckDB's dialect. It may compute, filter and unnest,
    but not sort, group, join or limit: it sees one batch, and where a batch ends means nothing."""
    params: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Values for `$name` in the query."""
    key: list[str] = Field(default_factory=list)
    """Columns of the result that identify a row; default: the stream's key, where all of its
    columns are still there."""
