"""Selects columns; copies nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arro3.core import RecordBatch

from mycelial.sdk.envelope import Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.step import RowStep, unknown_column

if TYPE_CHECKING:
    from mycelial.transforms.select.config import SelectConfig


class SelectStep(RowStep):
    """Columns kept, in order."""

    def __init__(self, settings: SelectConfig) -> None:
        self._keep = tuple(settings.keep)
        self._drop = tuple(settings.drop)
        self._kept: dict[str, list[str]] = {}

    def shape(self, stream: StreamSchema) -> StreamSchema:  # noqa: D102
        names = [column.name for column in stream.columns]
        for name in (*self._keep, *self._drop):
            if name not in names:
                raise unknown_column("MYC-XFORM-020", name, stream)
        kept = list(self._keep) or [name for name in names if name not in self._drop]
        if not kept:
            raise Permanent(
                "MYC-XFORM-021", "this drops every column", fix="leave at least one column"
            )
        self._kept[stream.name] = kept
        columns = tuple(column for name in kept if (column := stream.column(name)))
        key = stream.key if set(stream.key) <= set(kept) else ()
        return replace(stream, columns=columns, key=key)

    def transform(  # noqa: D102
        self, stream: str, batch: RecordBatch
    ) -> tuple[RecordBatch, tuple[Reject, ...]]:
        return batch.select(self._kept[stream]), ()
