"""Renames columns; copies nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arro3.core import RecordBatch, Schema

from mycelial.sdk.envelope import Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.step import RowStep, repeated, unknown_column

if TYPE_CHECKING:
    from mycelial.transforms.rename.config import RenameConfig


class RenameStep(RowStep):
    """Columns under other names."""

    def __init__(self, settings: RenameConfig) -> None:
        self._names = dict(settings.columns)

    def shape(self, stream: StreamSchema) -> StreamSchema:  # noqa: D102
        for name in self._names:
            if stream.column(name) is None:
                raise unknown_column("MYC-XFORM-030", name, stream)
        columns = tuple(replace(c, name=self._names.get(c.name, c.name)) for c in stream.columns)
        if twice := repeated(column.name for column in columns):
            raise Permanent(
                "MYC-XFORM-031",
                f"more than one column would be called {', '.join(twice)}",
                fix="choose another name, or drop the other column first",
            )
        key = tuple(self._names.get(name, name) for name in stream.key)
        return replace(stream, columns=columns, key=key)

    def transform(  # noqa: D102
        self, stream: str, batch: RecordBatch
    ) -> tuple[RecordBatch, tuple[Reject, ...]]:
        fields = [batch.schema.field(index) for index in range(batch.num_columns)]
        renamed = [field.with_name(self._names.get(field.name, field.name)) for field in fields]
        return RecordBatch.from_arrays(batch.columns, schema=Schema(renamed)), ()
