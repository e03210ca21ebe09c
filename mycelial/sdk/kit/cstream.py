"""Pulls an Arrow C stream without holding the interpreter.

arro3's own reader keeps the interpreter's lock while a driver fetches a batch, 13 ms for SQLite:
the thread that writes would wait for it between any two of its statements, and reading and writing
would take turns. A call through ctypes lets go of the lock. Imports arro3: call from drivers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arro3.core import RecordBatch

# Sizes and offsets of the C data interface's structs: ten, nine and one-before-last words.
_WORD = ctypes.sizeof(ctypes.c_void_p)
_SCHEMA, _ARRAY, _ARRAY_RELEASE = 9, 10, 8
_SCHEMA_NAME, _ARRAY_NAME = b"arrow_schema", b"arrow_array"
_FILL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Stream(ctypes.Structure):
    _fields_ = (
        ("get_schema", _FILL),
        ("get_next", _FILL),
        ("get_last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def batches(handle: Any) -> Generator[RecordBatch]:
    """Yield the batches of an ADBC stream handle, and release it at the end.

    Raises: Exception with the driver's message, as arro3 does.
    """
    from arro3.core import RecordBatch, Schema

    address = handle.address
    stream = _Stream.from_address(address)
    try:
        given = _filled(stream, stream.get_schema, address, _SCHEMA)
        schema = Schema.from_arrow_pycapsule(
            _new_capsule(ctypes.addressof(given), _SCHEMA_NAME, None)
        )
        while True:
            array = _filled(stream, stream.get_next, address, _ARRAY)
            if not array[_ARRAY_RELEASE]:
                return  # an empty struct is the end of the stream
            # arro3 moves the content out; the struct itself is ours and may go afterwards.
            capsule = _new_capsule(ctypes.addressof(array), _ARRAY_NAME, None)
            yield RecordBatch.from_arrow_pycapsule(schema.__arrow_c_schema__(), capsule)
    finally:
        handle.release()


def _filled(stream: _Stream, fill: Any, address: int, words: int) -> Any:
    struct = (ctypes.c_void_p * words)()
    if fill(address, ctypes.addressof(struct)):
        said = stream.get_last_error(address)
        raise Exception(said.decode(errors="replace") if said else "the stream failed")
    return struct
