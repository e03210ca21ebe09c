"""What a manifest may say about renaming. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from mycelial.schemas.base import PluginConfig


class RenameConfig(PluginConfig):
    """Give columns other names."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"columns": {"ts": "created_at"}}]})
    shorthand: ClassVar[str | None] = "columns"

    columns: dict[str, str] = Field(min_length=1)
    """New names, by old name. Two columns may swap names; two may not end up with the same."""
