"""Casts that lose nothing unseen. arro3 turns a value that does not fit into NULL; here it raises.

Imports arro3: call from drivers, not from spec modules.
"""

from __future__ import annotations

from arro3.compute import cast, is_null
from arro3.core import Array, DataType, RecordBatch, Schema

from mycelial.sdk.errors import LossyType
from mycelial.sdk.kit.arrowtypes import type_name
from mycelial.sdk.kit.textbytes import text_bytes


class DoesNotFit(LossyType):
    """A value that the wanted type cannot hold; `row` counts from 0 in the batch."""

    def __init__(self, column: str, row: int, wanted: DataType, given: DataType) -> None:
        self.column, self.row = column, row
        super().__init__(
            "MYC-TYPE-010",
            f'column "{column}", row {row} of the batch: '
            f"a {type_name(given)} value does not fit {type_name(wanted)}",
            fix=f'declare another type for "{column}", or clean the value at its source',
        )


def strict_cast(column: str, array: Array, wanted: DataType) -> Array:
    """Cast an array. Raises: DoesNotFit at the first value that would become NULL."""
    if array.type == wanted:
        return array
    result = cast(array, wanted)
    if result.null_count != array.null_count:
        pairs = zip(is_null(array).to_pylist(), is_null(result).to_pylist(), strict=True)
        row = next(row for row, (before, after) in enumerate(pairs) if after and not before)
        raise DoesNotFit(column, row, wanted, array.type)
    return result


def checked_text(column: str, array: Array) -> Array:
    """Return text as it is. Raises: DoesNotFit where bytes are not UTF-8, which drivers pass on."""
    if text_bytes(array)[0].isascii():
        return array  # a tenth of the cost of the check by casting
    strict_cast(column, cast(array, DataType.binary()), DataType.utf8())
    return array


def cast_batch(batch: RecordBatch, wanted: Schema) -> RecordBatch:
    """Cast the columns of a batch, in their order. Raises: DoesNotFit."""
    if batch.schema.types == wanted.types:
        return batch
    arrays = [
        strict_cast(name, batch.column(index), wanted.field(index).type)
        for index, name in enumerate(batch.schema.names)
    ]
    return RecordBatch.from_arrays(arrays, schema=wanted)
