"""From what SQLite stores to the planned Arrow types, losing nothing unseen. Loads arro3."""

from __future__ import annotations

from arro3.compute import max as largest
from arro3.compute import min as smallest
from arro3.core import Array, DataType

from mycelial.sdk.kit.casts import DoesNotFit, checked_text, strict_cast
from mycelial.sdk.kit.isotext import cast_iso


def to_type(column: str, array: Array, wanted: DataType) -> Array:
    """Return a raw column in its planned type. Raises: DoesNotFit."""
    is_text = array.type == DataType.utf8()
    if wanted == DataType.bool():
        array = _only_bits(column, array, wanted)
    elif is_text and wanted == DataType.utf8():
        return checked_text(column, array)
    elif is_text and bool(DataType.is_temporal(wanted)):
        return cast_iso(column, array, wanted)
    return strict_cast(column, array, wanted)


def _only_bits(column: str, array: Array, wanted: DataType) -> Array:
    """A cast takes every integer but 0 for true."""
    if array.null_count < len(array) and not (
        smallest(array).as_py() >= 0 and largest(array).as_py() <= 1
    ):
        row = next(i for i, v in enumerate(array.to_pylist()) if v not in (0, 1, None))
        raise DoesNotFit(column, row, wanted, array.type)
    return array
