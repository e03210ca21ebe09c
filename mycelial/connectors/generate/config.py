"""What a manifest may say about made rows. Loads pydantic."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from mycelial.schemas.base import Percent, PluginConfig, StrictModel

_COLUMNS = {
    "id": {"kind": "sequence"},
    "at": {"kind": "timestamp"},
    "amount": {"kind": "float"},
    "note": {"kind": "text", "nulls": "10%"},
}


class GeneratedColumn(StrictModel):
    """How one column's values are made."""

    kind: Literal["sequence", "int", "float", "text", "choice", "timestamp", "bool", "uuid"]
    """`sequence` counts rows from `low`; `timestamp` counts seconds from `start`; `choice` picks
    one of `choices`; `text` is `length` characters; the others are evenly spread."""
    low: int = 0
    """Smallest value of int and float; first value of sequence."""
    high: int = 1_000_000
    """Largest value of int; bound of float."""
    length: int = Field(default=12, ge=1, le=10_000)
    """Characters of a text."""
    choices: list[str] = Field(default_factory=list)
    """What `choice` picks from; a value listed twice comes twice as often."""
    start: str = "2026-01-01T00:00:00"
    """First timestamp, UTC."""
    step: int = Field(default=1, ge=1)
    """Difference between rows of sequence, and seconds between rows of timestamp."""
    nulls: Percent = 0.0
    """How many values are NULL."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "choice" and not self.choices:
            raise ValueError("a choice column needs `choices`")
        if self.high < self.low:
            raise ValueError("high is lower than low")
        return self


def _default_columns() -> dict[str, GeneratedColumn]:
    return {name: GeneratedColumn.model_validate(spec) for name, spec in _COLUMNS.items()}


class GenerateConfig(PluginConfig):
    """Make rows."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"rows": 1_000_000},
                {"rate": 100, "columns": {"id": {"kind": "sequence"}, "ok": {"kind": "bool"}}},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "rows"

    rows: int | None = Field(default=None, ge=0)
    """How many rows there are in all; endless without it."""
    rate: float | None = Field(default=None, gt=0)
    """Rows per second; as fast as possible without it."""
    seed: int = 0
    """Equal seeds make equal rows."""
    columns: dict[str, GeneratedColumn] = Field(default_factory=_default_columns, min_length=1)
    """Columns by name, in order."""
    batch_rows: int = Field(default=8_192, ge=1)
    """Rows per batch; with a low `rate`, small batches arrive more evenly."""
    stream: str = "generated"
    """Name of the stream."""
