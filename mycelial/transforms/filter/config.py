"""What a manifest may say about filtering. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from mycelial.schemas.base import PluginConfig


class FilterConfig(PluginConfig):
    """Keep rows for which `where` is true."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"where": "qty > 0 and status <> 'void'"},
                {"where": "site = $site", "params": {"site": "${daemon.labels.site}"}},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "where"

    where: str = Field(min_length=1)
    """A SQL expression over the row's columns, in DuckDB's dialect, checked when planned. Rows
    for which it is false or NULL are dropped."""
    params: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Values for `$name` in the expression."""
