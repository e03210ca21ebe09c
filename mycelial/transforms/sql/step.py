"""Runs a query over each batch and gives the result the planned types."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from arro3.compute import cast
from arro3.core import Array, DataType, Field, RecordBatch, Schema

from mycelial.sdk.envelope import Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import arrow_schema, stream_schema
from mycelial.sdk.kit.duck import Duck
from mycelial.sdk.kit.duckrows import by_row, joined
from mycelial.sdk.kit.step import RowStep, repeated, unknown_column

if TYPE_CHECKING:
    from mycelial.transforms.sql.config import SqlConfig


class SqlStep(RowStep):
    """The result of a row-local query."""

    def __init__(self, settings: SqlConfig) -> None:
        self._query = settings.query.rstrip().rstrip(";")
        self._params = dict(settings.params)
        self._key = tuple(settings.key)
        self._open: Duck | None = None
        self._outputs: dict[str, Schema] = {}
        self._determinism: Literal["pure", "external"] | None = None

    @property
    def _duck(self) -> Duck:
        if self._open is None:
            self._open = Duck()
        return self._open

    @property
    def determinism(self) -> Literal["pure", "stateful", "external"]:  # type: ignore[override]
        """External when the query calls something like random() or now()."""
        if self._determinism is None:
            self._determinism = "external" if self._duck.is_volatile(self._query) else "pure"
        return self._determinism

    def shape(self, stream: StreamSchema) -> StreamSchema:  # noqa: D102
        found = self._duck.check(self._query, stream, self._params)
        if twice := repeated(found.names):
            raise Permanent(
                "MYC-XFORM-011",
                f"the query gives more than one column called {', '.join(twice)}",
                fix="name them apart with `as`",
            )
        plain = Schema([_planned(stream, found.field(i)) for i in range(len(found))])
        shaped = stream_schema(stream.name, plain)
        for name in self._key:
            if shaped.column(name) is None:
                raise unknown_column("MYC-XFORM-012", name, shaped)
        kept = stream.key if all(shaped.column(name) for name in stream.key) else ()
        self._outputs[stream.name] = arrow_schema(shaped)
        return replace(shaped, key=self._key or kept)

    def transform(  # noqa: D102
        self, stream: str, batch: RecordBatch
    ) -> tuple[RecordBatch, tuple[Reject, ...]]:
        schema = self._outputs[stream]
        if batch.num_rows == 0:
            return joined([], schema), ()
        pairs, rejects = by_row(self._duck, self._query, batch, self._params)
        parts = [_typed(result, schema) for _, result in pairs]
        return (parts[0] if len(parts) == 1 else joined(parts, schema)), rejects

    def close(self) -> None:  # noqa: D102
        if self._open is not None:
            self._open.close()
            self._open = None


def _planned(stream: StreamSchema, found: Field) -> Field:
    """Return a result column's planned form: DuckDB has one text and one binary type, and a column
    that went through it unchanged keeps the one it had."""
    column = stream.column(found.name)
    if column is not None:
        before = arrow_schema(StreamSchema("", (column,))).field(0).type
        if _family(before) == _family(found.type) != "":
            return Field(found.name, before)
    return Field(found.name, _plain(found.type))


def _family(kind: DataType) -> str:
    if any(map(bool, (DataType.is_unicode(kind), DataType.is_string_view(kind)))) or bool(
        DataType.is_large_unicode(kind)
    ):
        return "text"
    if bool(DataType.is_binary(kind)) or bool(DataType.is_large_binary(kind)):
        return "binary"
    return ""


def _plain(kind: DataType) -> DataType:
    if bool(DataType.is_string_view(kind)):
        return DataType.utf8()
    if bool(DataType.is_dictionary(kind)) and kind.value_type is not None:
        return kind.value_type
    return kind


def _typed(batch: RecordBatch, schema: Schema) -> RecordBatch:
    columns = [
        column if column.type == kind else Array.from_arrow(cast(column, kind))
        for column, kind in zip(batch.columns, schema.types, strict=True)
    ]
    return RecordBatch.from_arrays(columns, schema=schema)
