"""The bytes of a text column as a whole, which costs a thousandth of looking at its values.

Imports arro3: call from drivers, not from spec modules.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from arro3.core import Array

if TYPE_CHECKING:
    from typing import Any


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
    first = int.from_bytes(offsets[:4], sys.byteorder)
    last = int.from_bytes(offsets[-4:], sys.byteorder)
    values = head.buffers[2]
    return (ctypes.string_at(values + first, last - first) if values else b""), offsets
