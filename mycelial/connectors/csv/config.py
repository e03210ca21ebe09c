"""What a manifest may say about CSV. Loads pydantic; drivers see `Settings` instead."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from mycelial.schemas.base import PluginConfig

Encoding = Literal["utf-8", "latin-1", "iso-8859-15", "cp1252", "cp1250", "ascii"]


class CsvSourceConfig(PluginConfig):
    """Read delimited text files."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "exports/orders-*.csv", "columns": {"id": "int64", "at": "timestamp[us]"}},
                {"path": "old.txt", "delimiter": ";", "encoding": "latin-1", "null": "NULL"},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "path"

    path: str = Field(min_length=1)
    """A file, or a pattern such as `in/*.csv`. Files are read in the order of their names, each
    once; files that appear later are read on the next run. Write new files under a hidden name
    and rename them: a file must be complete when its name matches."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Types of columns, by name: `{id: int64, price: "decimal128(10, 2)"}`. A column not named
    here is text, as it stands in the file. With `header: false` this names all columns in order."""
    infer: bool = False
    """Guess the types of undeclared columns from the first 10,000 rows of the first file. The plan
    shows the guess, and it then holds for this pipeline: a value that does not fit is an error."""
    header: bool = True
    """The first record of every file names the columns."""
    delimiter: str = Field(default=",", min_length=1, max_length=1, pattern=r"^[\x09\x20-\x7e]$")
    """The character between fields."""
    quote: str = Field(default='"', min_length=1, max_length=1, pattern=r"^[\x21-\x7e]$")
    """The character around fields that hold delimiters or line ends; doubled inside a field."""
    encoding: Encoding = "utf-8"
    """Text encoding. A byte that is invalid in it is an error with its line."""
    null: str = ""
    """The text that stands for NULL. By default an empty unquoted field is NULL, and `""` is an
    empty text. With another value, empty text fields stay empty text."""
    on_read: Literal["keep", "moveToDone", "delete"] = "keep"
    """What happens to a file after all of its rows are committed. `moveToDone` moves it to a
    folder `done` beside it."""
    follow: bool = False
    """Files may grow: read on from where the last whole line ended. Without it, a file that
    changed after it was read is an error."""
    stream: str = ""
    """Name of the stream; default: the file's name without wildcards."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote must differ")
        if not self.header and not self.columns:
            raise ValueError("with header: false, name all columns in `columns`, in order")
        if self.on_read == "moveToDone" and "**" in self.path:
            raise ValueError("moveToDone would find its own `done` folders again under `**`")
        if self.follow and self.on_read != "keep":
            raise ValueError("a file that may still grow can be neither moved nor deleted")
        return self


class CsvDestinationConfig(PluginConfig):
    """Write delimited text files."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"path": "out/orders.csv"},
                {"path": "out/orders", "layout": "files"},
                {"path": "report.csv", "mode": "replace", "escapeFormulas": True},
            ]
        }
    )
    shorthand: ClassVar[str | None] = "path"

    path: str = Field(min_length=1)
    """The file to write; with `layout: files`, the folder."""
    mode: Literal["append", "replace"] = "append"
    """`replace` writes each snapshot run to a hidden file that takes the name when it is whole."""
    layout: Literal["file", "files"] = "file"
    """`files` writes one whole file per commit unit, published by rename."""
    header: bool = True
    """Start every file with a record of column names."""
    delimiter: str = Field(default=",", min_length=1, max_length=1, pattern=r"^[\x09\x20-\x7e]$")
    """The character between fields."""
    quote: str = Field(default='"', min_length=1, max_length=1, pattern=r"^[\x21-\x7e]$")
    """The character around fields that need it."""
    null: str = ""
    """Text for NULL. With the default, NULL is an empty field and empty text is `""`."""
    escape_formulas: bool = False
    """Put `'` before text that starts with = + - @ or a control character, so that a spreadsheet
    shows it instead of running it. Changes those values: leave it off for machines."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote must differ")
        if self.mode == "replace" and self.layout == "files":
            raise ValueError("replace writes one file; use layout: file")
        return self
