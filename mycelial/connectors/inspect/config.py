"""What a manifest may say about inspecting. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from mycelial.schemas.base import PluginConfig


class InspectConfig(PluginConfig):
    """Print rows."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{}, {"path": "seen.jsonl", "mask": ["card"]}]}
    )
    shorthand: ClassVar[str | None] = "path"

    path: str = ""
    """A file to append JSON lines to; standard output without it."""
    counts_only: bool = False
    """Print one line per commit, with the number of rows, instead of the rows."""
    mask: list[str] = Field(default_factory=list)
    """Columns whose values are shown as `***`."""
    limit: int | None = Field(default=None, ge=1)
    """Show at most so many rows; all are still counted."""
