"""What a manifest may say about Parquet. Loads pydantic; drivers see `Settings` instead."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from mycelial.schemas.base import PluginConfig


class ParquetSourceConfig(PluginConfig):
    """Read Parquet files."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"path": "lake/orders/*.parquet"}, {"path": "day.parquet"}]}
    )
    shorthand: ClassVar[str | None] = "path"

    path: str = Field(min_length=1)
    """A file, or a pattern such as `in/*.parquet`. Files are read in the order of their names,
    each once; files that appear later are read on the next run. All must have the same columns."""
    on_read: Literal["keep", "moveToDone", "delete"] = "keep"
    """What happens to a file after all of its rows are committed. `moveToDone` moves it to a
    folder `done` beside it."""
    stream: str = ""
    """Name of the stream; default: the file's name without wildcards, or its folder's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.on_read == "moveToDone" and "**" in self.path:
            raise ValueError("moveToDone would find its own `done` folders again under `**`")
        return self


class ParquetDestinationConfig(PluginConfig):
    """Write a folder of Parquet files."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "lake/orders"},
                {"path": "lake/prices", "mode": "replace", "compression": "zstd(6)"},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "path"

    path: str = Field(min_length=1)
    """The folder. Each commit unit becomes one file in it; `_mycelial` in it holds the journal."""
    mode: Literal["append", "replace"] = "append"
    """`replace` gathers each snapshot run in a hidden folder; the link `current` moves to it when
    the run is whole. The run before it is kept until then, for those who still read it."""
    compression: str = Field(
        default="zstd(1)",
        pattern=r"^(uncompressed|snappy|lz4_raw|(zstd|gzip|brotli)(\([0-9]{1,2}\))?)$",
    )
    """Codec, with its level in brackets."""
    row_group_rows: int = Field(default=65_536, ge=1_024, le=10_000_000)
    """Rows per row group: more compress better and need more memory to write."""
