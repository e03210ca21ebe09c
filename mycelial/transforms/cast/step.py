"""Casts columns exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arro3.core import Array, DataType, Field, RecordBatch, Schema

from mycelial.sdk.envelope import Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import parse_type, type_name
from mycelial.sdk.kit.casts import can_cast, cast_exact
from mycelial.sdk.kit.step import RowStep, unknown_column

if TYPE_CHECKING:
    from mycelial.transforms.cast.config import CastConfig


class CastStep(RowStep):
    """Columns with other types."""

    def __init__(self, settings: CastConfig) -> None:
        self._names = dict(settings.columns)
        self._nulls = settings.on_error == "null"

    def shape(self, stream: StreamSchema) -> StreamSchema:  # noqa: D102
        types = {name: _parsed(name, text) for name, text in self._names.items()}
        for name, kind in types.items():
            column = stream.column(name)
            if column is None:
                raise unknown_column("MYC-XFORM-040", name, stream)
            if not can_cast(parse_type(column.type), kind):
                raise Permanent(
                    "MYC-XFORM-042",
                    f'column "{name}": there is no cast from {column.type} to {type_name(kind)}',
                    fix="cast by way of text, or use a `sql` transform",
                )
        columns = tuple(
            replace(c, type=type_name(types[c.name]), nullable=c.nullable or self._nulls)
            if c.name in types
            else c
            for c in stream.columns
        )
        return replace(stream, columns=columns)

    def transform(  # noqa: D102
        self, stream: str, batch: RecordBatch
    ) -> tuple[RecordBatch, tuple[Reject, ...]]:
        fields = [batch.schema.field(index) for index in range(batch.num_columns)]
        columns = batch.columns
        bad: dict[int, Reject] = {}
        for index, field in enumerate(fields):
            if field.name not in self._names:
                continue
            kind = _parsed(field.name, self._names[field.name])
            cast = cast_exact(columns[index], kind)
            columns[index] = cast.values
            fields[index] = Field(field.name, kind, nullable=field.nullable or bool(cast.bad))
            what = f'the value of column "{field.name}" does not fit in {type_name(kind)}'
            for row in cast.bad:
                bad.setdefault(row, Reject(row, "MYC-XFORM-043", what))
        result = RecordBatch.from_arrays(columns, schema=Schema(fields))
        if self._nulls or not bad:
            return result, ()
        kept = [row for row in range(batch.num_rows) if row not in bad]
        rows = result.take(Array(kept, DataType.uint64())) if kept else result.slice(0, 0)
        return rows, tuple(bad[row] for row in sorted(bad))


def _parsed(name: str, text: str) -> DataType:
    try:
        return parse_type(text)
    except ValueError as error:
        raise Permanent("MYC-XFORM-041", f'column "{name}": {error}') from error
