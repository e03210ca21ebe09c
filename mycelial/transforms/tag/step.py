"""Adds constant columns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arro3.core import Array, DataType, Field, RecordBatch, Schema

from mycelial.sdk.envelope import Column, Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import parse_type, type_name
from mycelial.sdk.kit.casts import can_cast, cast_exact
from mycelial.sdk.kit.step import RowStep, unknown_column

if TYPE_CHECKING:
    from mycelial.transforms.tag.config import TagConfig

_TYPES = {bool: "bool", int: "int64", float: "float64", str: "utf8"}


class TagStep(RowStep):
    """New columns behind the old ones."""

    def __init__(self, settings: TagConfig) -> None:
        self._values = dict(settings.columns)
        self._names = dict(settings.types)
        self._constants: dict[str, Array] = {}

    def shape(self, stream: StreamSchema) -> StreamSchema:  # noqa: D102
        for name in self._values:
            if stream.column(name) is not None:
                raise Permanent(
                    "MYC-XFORM-050",
                    f'there is a column "{name}" already',
                    fix="choose another name, or drop that column first",
                )
        added = tuple(Column(name, type_name(c.type), False) for name, c in self._made().items())
        for name in self._names:
            if name not in self._values:
                raise unknown_column("MYC-XFORM-051", name, StreamSchema("`columns`", added))
        return replace(stream, columns=(*stream.columns, *added))

    def transform(  # noqa: D102
        self, stream: str, batch: RecordBatch
    ) -> tuple[RecordBatch, tuple[Reject, ...]]:
        zeros = Array([0] * batch.num_rows, DataType.uint64())
        fields = [batch.schema.field(index) for index in range(batch.num_columns)]
        columns = batch.columns
        for name, constant in self._made().items():
            fields.append(Field(name, constant.type, nullable=False))
            columns.append(constant.take(zeros))
        return RecordBatch.from_arrays(columns, schema=Schema(fields)), ()

    def _made(self) -> dict[str, Array]:
        if not self._constants:
            self._constants = {name: self._constant(name) for name in self._values}
        return self._constants

    def _constant(self, name: str) -> Array:
        """Return the value as a column of one row."""
        value = self._values[name]
        plain = Array([value], parse_type(_TYPES[type(value)]))
        try:
            kind = parse_type(self._names[name]) if name in self._names else plain.type
        except ValueError as error:
            raise Permanent("MYC-XFORM-052", f'column "{name}": {error}') from error
        cast = cast_exact(plain, kind) if can_cast(plain.type, kind) else None
        if cast is None or cast.bad:
            raise Permanent(
                "MYC-XFORM-052",
                f'column "{name}": its value does not fit in {type_name(kind)}',
                fix="change the value or its type",
            )
        return cast.values
