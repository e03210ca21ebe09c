"""Dates and times out of text, without dropping what the wanted type has no room for.

A cast of text ignores a zone where the type has none, and cuts digits after the microseconds.
Both are looked for in the text's bytes as a whole, which costs a thousandth of looking at values.
Imports arro3: call from drivers, not from spec modules.
"""

from __future__ import annotations

import re
import sys
from array import array as integers
from functools import lru_cache

from arro3.core import Array, DataType

from mycelial.sdk.kit.casts import DoesNotFit, strict_cast
from mycelial.sdk.kit.textbytes import text_bytes

_MORE_THAN_MICROS = re.compile(rb"\.\d{7}")
_ZONE = re.compile(rb"[Zz+-]")


def cast_iso(column: str, array: Array, wanted: DataType) -> Array:
    """Cast text to a date, time or timestamp. Raises: DoesNotFit, also for values that the type
    would keep only in part."""
    result = strict_cast(column, array, wanted)
    data, offsets = text_bytes(array)
    valid = len(array) - array.null_count
    dated = not DataType.is_time(wanted)
    zoned = DataType.is_timestamp(wanted) and wanted.tz is not None
    dashes = data.count(b"-")
    suspicious = dated and (
        dashes < 2 * valid
        or (not zoned and (dashes > 2 * valid or b"+" in data or b"Z" in data or b"z" in data))
    )
    if suspicious or (not _is_uniform(offsets, 26) and _MORE_THAN_MICROS.search(data)):
        for row, text in enumerate(array.to_pylist()):
            if text is not None and not _is_whole(text.encode(), dated=dated, zoned=zoned):
                raise DoesNotFit(column, row, wanted, array.type)
    return result


def _is_uniform(offsets: bytes, length_max: int) -> bool:
    """Tell whether all values are equally long, and not longer than `length_max`."""
    count = len(offsets) // 4
    if count < 2:
        return True
    first, second = (int.from_bytes(offsets[i : i + 4], sys.byteorder) for i in (0, 4))
    step = second - first
    return 0 < step <= length_max and offsets == _offsets_of(first, step, count)


@lru_cache(maxsize=8)
def _offsets_of(first: int, step: int, count: int) -> bytes:
    """Return the offsets of `count - 1` values of `step` bytes; batches of a stream share them."""
    return integers("i", range(first, first + step * count, step)).tobytes()


def _is_whole(text: bytes, *, dated: bool, zoned: bool) -> bool:
    if _MORE_THAN_MICROS.search(text):
        return False
    if not dated:
        return True
    return text.count(b"-") >= 2 and (zoned or not _ZONE.search(text[10:]))
