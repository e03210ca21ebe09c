"""Dates and times out of text, without dropping what the wanted type has no room for.

A cast of text ignores a zone where the type has none, and cuts digits after the microseconds.
Both are looked for in the text's bytes as a whole, which costs a thousandth of looking at values.
Imports arro3: call from drivers, not from spec modules.
"""

from __future__ import annotations

import ctypes
import re
from array import array as integers
from typing import TYPE_CHECKING

from arro3.core import Array, DataType

from mycelial.sdk.kit.casts import DoesNotFit, strict_cast

if TYPE_CHECKING:
    from typing import Any

_MORE_THAN_MICROS = re.compile(rb"\.\d{7}")
_ZONE = re.compile(rb"[Zz+-]")


class _ArrowArray(ctypes.Structure):
    # The head of the C data interface's struct; what follows is not read here.
    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    )


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def text_bytes(array: Array) -> tuple[bytes, bytes]:
    """Return the values of a utf8 array, one after the other, and their int32 offsets."""
    capsule: Any = array.__arrow_c_array__()[1]
    head = _ArrowArray.from_address(_pointer(capsule, b"arrow_array"))
    if not head.length:
        return b"", bytes(4)
    start = head.buffers[1] + 4 * head.offset
    offsets = ctypes.string_at(start, 4 * (head.length + 1))
    first = int.from_bytes(offsets[:4], "little")
    last = int.from_bytes(offsets[-4:], "little")
    values = head.buffers[2]
    return (ctypes.string_at(values + first, last - first) if values else b""), offsets


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
    found = integers("i")
    found.frombytes(offsets)
    if len(found) < 2:
        return True
    step = found[1] - found[0]
    if not 0 < step <= length_max:
        return False
    return found.tobytes() == integers("i", range(found[0], found[-1] + 1, step)).tobytes()


def _is_whole(text: bytes, *, dated: bool, zoned: bool) -> bool:
    if _MORE_THAN_MICROS.search(text):
        return False
    if not dated:
        return True
    return text.count(b"-") >= 2 and (zoned or not _ZONE.search(text[10:]))
