"""What a manifest may say about tagging. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from mycelial.schemas.base import PluginConfig


class TagConfig(PluginConfig):
    """Add columns with a constant value."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"columns": {"site": "${daemon.labels.site}"}},
                {"columns": {"batch": 7}, "types": {"batch": "int32"}},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "columns"

    columns: dict[str, str | int | float | bool] = Field(min_length=1)
    """Values, by the name of the new column. `${...}` is filled in before."""
    types: dict[str, str] = Field(default_factory=dict)
    """Arrow types of new columns; default: utf8, int64, float64 or bool, by the value."""
