"""Whole CSV records to an Arrow batch: all text first, then cast exactly to declared types."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arro3.core import Array, DataType, Field, RecordBatch, Schema
from arro3.io import read_csv

from mycelial.connectors.csv.records import BadQuote, BadReturn, Dialect, check_quotes
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import type_name
from mycelial.sdk.kit.casts import Cast, cast_exact, is_text

# Stands for a field that is `""` while Arrow's reader, which takes it for NULL, has the text.
_EMPTY = "\x1aMYCELIAL-EMPTY\x1a"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole records of a file, and the line (from 0) on which they begin."""

    file: str
    line: int
    data: bytes


class RecordParser:
    """Parses pieces of files that all have the columns of `schema`."""

    def __init__(self, schema: Schema, dialect: Dialect, *, encoding: str, null: str) -> None:
        self.schema = schema
        self._text = Schema([Field(name, DataType.utf8()) for name in schema.names])
        self._dialect = dialect
        self._encoding = encoding
        self._null = null

    def parse(self, piece: Piece) -> RecordBatch | None:
        """Return the rows, or None when there are only blank lines.

        Raises: Permanent, with file and line, for what is not exactly a row of the schema.
        """
        data, has_empty = self._checked(piece)
        try:
            batch = self._read(data)
        except Exception as error:  # arro3 raises bare Exception for every parse failure
            raise self._located(piece) from error
        if batch is None:
            return None
        columns = [
            self._typed(piece, batch.column(index), index, has_empty)
            for index in range(len(self.schema))
        ]
        return RecordBatch.from_arrays(columns, schema=self.schema)

    def _checked(self, piece: Piece) -> tuple[bytes, bool]:
        """Return UTF-8 with `""` marked, and whether any was."""
        try:
            text = piece.data
            if self._encoding != "utf-8":
                text = text.decode(self._encoding).encode()
            empties = check_quotes(text, self._dialect)
        except UnicodeDecodeError as error:
            raise _bad_encoding(piece, self._encoding, error.start) from error
        except BadQuote as error:
            raise Permanent(
                "MYC-CSV-002",
                f"{_at(piece, error.line)}: a quote is never closed, or stands inside a field "
                "that is not quoted, or is not doubled inside one that is",
                fix="quote the whole field and double the quotes in it, or set `quote` to a "
                "character that the file does not use",
            ) from error
        except BadReturn as error:
            raise Permanent(
                "MYC-CSV-003",
                f"{_at(piece, error.line)}: a carriage return without a line feed",
                fix="end lines with LF or CRLF, and quote fields that hold a carriage return",
            ) from error
        if not empties:
            return text, False
        pieces = text.split(self._dialect.quote)
        for index in empties:
            pieces[index] = _EMPTY.encode()
        return self._dialect.quote.join(pieces), True

    def _read(self, data: bytes) -> RecordBatch | None:
        if data.startswith(_BOM):
            data = b"\n" + data  # the reader would take it for a byte order mark
        reader = read_csv(
            io.BytesIO(data),
            self._text,
            has_header=False,
            batch_size=data.count(b"\n") + 1,
            delimiter=self._dialect.delimiter.decode(),
            quote=self._dialect.quote.decode(),
        )
        return next(iter(reader), None)

    def _typed(self, piece: Piece, column: Array, index: int, has_empty: bool) -> Array:
        kind = self.schema.field(index).type
        is_binary = bool(DataType.is_binary(kind))
        if has_empty or self._null:
            column = self._nulls(column, keeps_empty=is_text(kind) or is_binary)
        cast = _unhex(column) if is_binary else cast_exact(column, kind)
        if cast.bad:
            line = self._line_of_row(piece, cast.bad[0])
            raise Permanent(
                "MYC-CSV-005",
                f'{_at(piece, line)}: the value of column "{self.schema.names[index]}" is no '
                f"{type_name(kind)}"
                + (f" ({len(cast.bad)} such values nearby)" if len(cast.bad) > 1 else ""),
                fix="correct the file, or declare the column as text and add a `cast` transform "
                "with `onError: null`",
            )
        return cast.values

    def _nulls(self, column: Array, *, keeps_empty: bool) -> Array:
        """Tell NULL from empty text, by the rules of `null`."""
        empty = "" if keeps_empty else None
        absent = None if self._null == "" else empty
        known: dict[str | None, str | None] = {None: absent, _EMPTY: empty}
        if self._null:
            known[self._null] = None
        values: Sequence[Any] = column.to_pylist()
        return Array([known.get(value, value) for value in values], DataType.utf8())

    def _located(self, piece: Piece) -> Permanent:
        """Say on which line the reader gave up."""
        try:
            text = piece.data.decode(self._encoding)
        except UnicodeDecodeError as error:
            return _bad_encoding(piece, self._encoding, error.start)
        width = len(self.schema)
        for line, fields in records(text, self._dialect):
            if fields and len(fields) != width:
                return Permanent(
                    "MYC-CSV-004",
                    f"{_at(piece, line)}: {len(fields)} field{'s' * (len(fields) != 1)} "
                    f"where the header has {width}",
                    fix="correct that line; a field that holds the delimiter must be quoted",
                )
        return Permanent("MYC-CSV-006", f"{_at(piece, 0)}: these records cannot be read")

    def _line_of_row(self, piece: Piece, row: int) -> int:
        text = piece.data.decode(self._encoding)
        rows = (line for line, fields in records(text, self._dialect) if fields)
        return next((line for index, line in enumerate(rows) if index == row), 0)


def records(text: str, dialect: Dialect) -> list[tuple[int, list[str]]]:
    """Return every record with the line (from 0) on which it begins; slow and simple."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.delimiter.decode(),
        quotechar=dialect.quote.decode(),
        strict=False,
    )
    found, line = [], 0
    for fields in reader:
        found.append((line, fields))
        line = reader.line_num
    return found


def _unhex(column: Array) -> Cast:
    """Read hexadecimal, the form in which binary is written."""
    values: list[bytes | None] = []
    bad = []
    for row, text in enumerate(column.to_pylist()):
        try:
            values.append(None if text is None else bytes.fromhex(text))
        except ValueError:
            values.append(None)
            bad.append(row)
    return Cast(Array(values, DataType.binary()), tuple(bad))


def _at(piece: Piece, line: int) -> str:
    return f"{piece.file}:{piece.line + line + 1}"


def _bad_encoding(piece: Piece, encoding: str, byte: int) -> Permanent:
    line = piece.data.count(b"\n", 0, byte)
    return Permanent(
        "MYC-CSV-001",
        f"{_at(piece, line)}: a byte that is not {encoding}",
        fix="set `encoding` to what the file uses, such as latin-1 or cp1252",
    )
