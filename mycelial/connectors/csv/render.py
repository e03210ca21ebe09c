"""Arrow batches to CSV bytes that `csv` reads back as they were."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from arro3.compute import cast
from arro3.core import Array, DataType, RecordBatch, Schema
from arro3.io import write_csv

from mycelial.connectors.csv.records import Dialect
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import type_name
from mycelial.sdk.kit.casts import is_text

_FORMULA = re.compile(r"[=+\-@\t\r\n]")


def check_writable(schema: Schema, *, null: str) -> None:
    """Raise Permanent when CSV cannot hold a column, or tell its NULLs from nothing."""
    for name, kind in zip(schema.names, schema.types, strict=True):
        if bool(DataType.is_nested(kind)) or bool(DataType.is_duration(kind)):
            raise Permanent(
                "MYC-CSV-020",
                f'column "{name}" has type {type_name(kind)}, which CSV cannot hold',
                fix="turn it into text with a `sql` transform, or write Parquet",
            )
    if len(schema) == 1 and schema.field(0).nullable and not null:
        raise Permanent(
            "MYC-CSV-021",
            "in a file of one column, a NULL would be a blank line, which readers skip",
            fix='set `null: "NULL"` or another text for it',
        )


class Renderer:
    """Renders batches of one schema. `marker` is a text that occurs in no value."""

    def __init__(
        self, schema: Schema, dialect: Dialect, *, null: str, escape_formulas: bool, marker: str
    ) -> None:
        self._schema = schema
        self._dialect = dialect
        self._null = null
        self._escape = escape_formulas
        self._marker = marker.encode()
        between = b"[" + re.escape(dialect.delimiter) + rb"\n]"
        self._empty = re.compile(rb"(?<=" + between + rb")(?=" + between + rb")")
        self._first_empty = re.compile(rb"\A(?=" + between + rb")")

    def header(self) -> bytes:
        """Return the record of names."""
        empty = RecordBatch.from_arrays(
            [_no_rows(kind) for kind in self._schema.types], schema=self._schema
        )
        return self._write(empty, null="", header=True)

    def rows(self, batch: RecordBatch) -> bytes:
        """Return the records of a batch."""
        columns = [self._plain(column) for column in batch.columns]
        plain = RecordBatch.from_arrays(columns, names=batch.schema.names)
        if self._null:
            return self._write(plain, null=self._null, header=False)
        data = self._write(plain, null=self._marker.decode(), header=False)
        return self._quote_empty(data).replace(self._marker, b"")

    def _write(self, batch: RecordBatch, *, null: str, header: bool) -> bytes:
        out = io.BytesIO()
        write_csv(
            batch,
            out,
            header=header,
            delimiter=self._dialect.delimiter.decode(),
            quote=self._dialect.quote.decode(),
            null=null,
        )
        return out.getvalue()

    def _plain(self, column: Array) -> Array:
        kind = column.type
        if bool(DataType.is_dictionary(kind)):
            column = Array.from_arrow(cast(column, kind.value_type or DataType.utf8()))
        if self._escape and is_text(column.type):
            return _mapped(column, _escaped)
        return column

    def _quote_empty(self, data: bytes) -> bytes:
        """Write empty text as `""`; NULLs are markers at this point, so what is empty is text."""
        quote = self._dialect.quote
        if self._empty.search(data) is None and self._first_empty.search(data) is None:
            return data
        pieces = data.split(quote)
        pieces[0] = self._first_empty.sub(quote * 2, pieces[0])
        outside = (self._empty.sub(quote * 2, piece) for piece in pieces[::2])
        pieces[::2] = list(outside)
        return quote.join(pieces)


def _escaped(text: str | None) -> str | None:
    return "'" + text if text and _FORMULA.match(text) else text


def _mapped(column: Array, change: Callable[[str | None], str | None]) -> Array:
    return Array([change(value) for value in column.to_pylist()], DataType.utf8())


def _no_rows(kind: DataType) -> Array:
    return Array.from_arrow(cast(Array([], DataType.utf8()), kind))
