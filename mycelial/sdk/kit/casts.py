"""Casts that lose nothing unseen.

Arrow's own cast turns a value that does not fit into NULL, rounds decimals, cuts sub-seconds off
and truncates floats, all silently. `cast_exact` names the rows that a target cannot hold exactly;
`strict_cast` and `cast_batch`, for drivers whose types were planned to fit, raise at the first
value that would become NULL.

Imports arro3: call from drivers, not from spec modules.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from arro3.compute import can_cast_types, cast, is_null
from arro3.core import Array, DataType, RecordBatch, Schema

from mycelial.sdk.errors import LossyType
from mycelial.sdk.kit.arrowtypes import type_name
from mycelial.sdk.kit.textbytes import text_bytes


@dataclass(frozen=True, slots=True)
class Cast:
    """The cast column; `bad` rows hold NULL in it, in rising order."""

    values: Array
    bad: tuple[int, ...] = ()


def can_cast(source: DataType, target: DataType) -> bool:
    """Tell whether `cast_exact` works between the types."""
    return bool(can_cast_types(source, target))


def cast_exact(column: Array, target: DataType) -> Cast:
    """Cast a column. Text is parsed; every other value must survive the way there and back."""
    source = column.type
    if source == target:
        return Cast(column)
    values = Array.from_arrow(cast(column, target))
    if is_text(source):
        bad = _nulled(column, values) | _inexact_text(column, values, target)
    else:
        bad = _changed(column, values, source)
    return Cast(_without(values, bad), tuple(sorted(bad))) if bad else Cast(values)


def is_text(kind: DataType) -> bool:
    """Tell whether the type holds text."""
    checks = (DataType.is_string, DataType.is_large_string, DataType.is_string_view)
    return any(bool(check(kind)) for check in checks)


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
    if nulled := _nulled(array, result):
        raise DoesNotFit(column, min(nulled), wanted, array.type)
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


def _nulled(column: Array, values: Array) -> set[int]:
    if values.null_count == column.null_count:
        return set()
    pairs = zip(is_null(column).to_pylist(), is_null(values).to_pylist(), strict=True)
    return {row for row, (before, after) in enumerate(pairs) if after and not before}


_FRACTION = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def _inexact_text(column: Array, values: Array, target: DataType) -> set[int]:
    """Return rows whose text says more than the target took from it."""
    pattern = _loss_pattern(target)
    if pattern is not None:
        texts = column.to_pylist()
        if re.search(pattern, "\n".join(filter(None, texts))) is None:
            return set()
        return {row for row, text in enumerate(texts) if text and re.search(pattern, text)}
    if bool(DataType.is_floating(target)):
        return _overflowed(column, values)
    return set()


def _loss_pattern(target: DataType) -> str | None:
    if bool(DataType.is_decimal(target)):
        scale = int(type_name(target).rpartition(",")[2].strip(" )"))
        return rf"\.[0-9]{{{max(scale, 0)}}}[0-9]*[1-9]"
    if target.time_unit is not None and not bool(DataType.is_duration(target)):
        return rf"\.[0-9]{{{_FRACTION[target.time_unit]}}}[0-9]*[1-9]"
    if bool(DataType.is_date(target)):
        return r"[0-9][T ][0-9]"
    return None


def _overflowed(column: Array, values: Array) -> set[int]:
    """Return rows where a number became infinite."""
    numbers = values.to_pylist()
    if not any(number is not None and math.isinf(number) for number in numbers):
        return set()
    pairs = zip(column.to_pylist(), numbers, strict=True)
    return {
        row
        for row, (text, number) in enumerate(pairs)
        if number is not None and math.isinf(number) and "inf" not in text.lower()
    }


def _changed(column: Array, values: Array, source: DataType) -> set[int]:
    """Return rows that do not come back as they were."""
    if not can_cast_types(values.type, source):
        return _nulled(column, values)
    back = Array.from_arrow(cast(values, source))
    if back == column:
        return set()
    pairs = zip(column.to_pylist(), back.to_pylist(), strict=True)
    return {row for row, (old, new) in enumerate(pairs) if not _same(old, new)}


def _same(old: Any, new: Any) -> bool:
    return bool(old == new) or (_is_nan(old) and _is_nan(new))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _without(values: Array, bad: set[int]) -> Array:
    """Return the values with NULL at the bad rows."""
    keep = [None if row in bad else row for row in range(len(values))]
    return values.take(Array(keep, DataType.uint64()))
