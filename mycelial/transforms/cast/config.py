"""What a manifest may say about casting. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from mycelial.schemas.base import PluginConfig


class CastConfig(PluginConfig):
    """Change the types of columns."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"columns": {"qty": "int64", "price": "decimal128(10, 2)"}},
                {"columns": {"seen": "timestamp[us, tz=UTC]"}, "onError": "null"},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "columns"

    columns: dict[str, str] = Field(min_length=1)
    """Arrow types, by column name. A value must survive exactly: 1.5 is no int64, and a time of
    day does not fit in a date."""
    on_error: Literal["reject", "null"] = "reject"
    """What happens to a row with a value that does not fit: `reject` stops the pipeline before it,
    with the row named and the position unmoved; `null` keeps it, with NULL in that column."""
