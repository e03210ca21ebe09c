"""Filters by a mask that DuckDB computes; the rows themselves do not pass through it, so every
type stays exactly what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from arro3.compute import filter as keep
from arro3.core import Array, DataType, RecordBatch

from mycelial.sdk.envelope import Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.arrowtypes import type_name
from mycelial.sdk.kit.duck import Duck
from mycelial.sdk.kit.duckrows import by_row, joined
from mycelial.sdk.kit.step import RowStep

if TYPE_CHECKING:
    from mycelial.transforms.filter.config import FilterConfig


class FilterStep(RowStep):
    """Keeps rows whose mask is true."""

    def __init__(self, settings: FilterConfig) -> None:
        # The line break ends a comment that the expression may end with. The expression is code of
        # the manifest's author; `Duck` accepts one row-local SELECT and can reach nothing.
        self._query = f"SELECT (\n{settings.where}\n) AS keep FROM input"  # noqa: S608
        self._params = dict(settings.params)
        self._open: Duck | None = None
        self._determinism: Literal["pure", "external"] | None = None

    @property
    def _duck(self) -> Duck:
        if self._open is None:
            self._open = Duck()
        return self._open

    @property
    def determinism(self) -> Literal["pure", "stateful", "external"]:  # type: ignore[override]
        """External when the expression calls something like random() or now()."""
        if self._determinism is None:
            self._determinism = "external" if self._duck.is_volatile(self._query) else "pure"
        return self._determinism

    def shape(self, stream: StreamSchema) -> StreamSchema:  # noqa: D102
        schema = self._duck.check(self._query, stream, self._params)
        kind = schema.field(0).type
        if len(schema) != 1 or not bool(DataType.is_boolean(kind)):
            raise Permanent(
                "MYC-XFORM-010",
                f"`where` must be one condition, true or false; this gives {type_name(kind)}",
                fix="compare the value with something: `qty > 0`",
            )
        return stream

    def transform(  # noqa: D102
        self, stream: str, batch: RecordBatch
    ) -> tuple[RecordBatch, tuple[Reject, ...]]:
        if batch.num_rows == 0:
            return batch, ()
        masks, rejects = by_row(self._duck, self._query, batch, self._params)
        if len(masks) == 1 and not rejects:
            return _kept(batch, masks[0][1].column(0)), ()
        parts = [_kept(rows, mask.column(0)) for rows, mask in masks]
        return joined(parts, batch.schema), rejects

    def close(self) -> None:  # noqa: D102
        if self._open is not None:
            self._open.close()
            self._open = None


def _kept(batch: RecordBatch, mask: Array) -> RecordBatch:
    columns = [Array.from_arrow(keep(column, mask)) for column in batch.columns]
    return RecordBatch.from_arrays(columns, schema=batch.schema)
