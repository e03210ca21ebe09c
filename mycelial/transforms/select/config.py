"""What a manifest may say about selecting. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from mycelial.schemas.base import PluginConfig


class SelectConfig(PluginConfig):
    """Keep or drop columns."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"keep": ["id", "at", "total"]}, {"drop": ["card"]}]}
    )
    shorthand: ClassVar[str | None] = "keep"

    keep: list[str] = Field(default_factory=list)
    """Columns to keep, in this order. Columns that the source gains later do not come through."""
    drop: list[str] = Field(default_factory=list)
    """Columns to leave out; all others keep their order."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.keep) == bool(self.drop):
            raise ValueError("give either `keep` or `drop`")
        if len(set(self.keep)) != len(self.keep):
            raise ValueError("`keep` names a column twice")
        return self
