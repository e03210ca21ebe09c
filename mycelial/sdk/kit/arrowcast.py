"""Casts that tell which rows did not survive, instead of nulling, rounding or wrapping them.

Arrow's own cast turns text it cannot parse into NULL, rounds decimals, cuts sub-seconds off and
truncates floats, all silently. Here a value that the target cannot hold exactly is *bad*.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from arro3.compute import can_cast_types, cast
from arro3.core import Array, DataType

from mycelial.sdk.kit.arrowtypes import type_name


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


def _nulled(column: Array, values: Array) -> set[int]:
    if values.null_count == column.null_count:
        return set()
    pairs = zip(column.to_pylist(), values.to_pylist(), strict=True)
    return {row for row, (old, new) in enumerate(pairs) if old is not None and new is None}


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
