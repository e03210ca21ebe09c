"""Makes rows. Pure: (columns, seed, range) -> batch.

Chance is the stream of SHAKE-128 over (seed, column, block), in blocks of fixed size, so that a
row is the same whatever range it is asked for in, and no value costs a Python-level hash.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import shake_128
from typing import TYPE_CHECKING, Any

from arro3.compute import cast
from arro3.core import Array, DataType, RecordBatch

from mycelial.sdk.envelope import StreamSchema
from mycelial.sdk.kit.arrowtypes import arrow_schema

if TYPE_CHECKING:
    from mycelial.connectors.generate.config import GeneratedColumn

_BLOCK = 1024
_SPAN = 1 << 64
_LETTERS = b"abcdefghijklmnopqrstuvwxyz012345" * 8

TYPES = {
    "sequence": "int64",
    "int": "int64",
    "float": "float64",
    "text": "utf8",
    "choice": "utf8",
    "timestamp": "timestamp[us, tz=UTC]",
    "bool": "bool",
    "uuid": "utf8",
}


def make_batch(
    stream: StreamSchema,
    columns: Mapping[str, GeneratedColumn],
    *,
    seed: int,
    first: int,
    count: int,
) -> RecordBatch:
    """Return rows `first` to `first + count`, counted from 0."""
    arrays = [_column(name, columns[name], seed=seed, first=first, count=count) for name in columns]
    return RecordBatch.from_arrays(arrays, schema=arrow_schema(stream))


def _column(name: str, spec: GeneratedColumn, *, seed: int, first: int, count: int) -> Array:
    values: list[Any]
    numbers = range(first, first + count)
    match spec.kind:
        case "sequence":
            values = [spec.low + number * spec.step for number in numbers]
        case "timestamp":
            start = int(datetime.fromisoformat(spec.start).replace(tzinfo=UTC).timestamp())
            values = [(start + number * spec.step) * 1_000_000 for number in numbers]
        case "text":
            values = _texts(name, spec.length, seed=seed, first=first, count=count)
        case "uuid":
            high = _draws(f"{name}/high", seed, first, count)
            low = _draws(f"{name}/low", seed, first, count)
            values = [_uuid(a, b) for a, b in zip(high, low, strict=True)]
        case _:
            values = _mapped(spec, _draws(name, seed, first, count))
    if spec.nulls > 0:
        bound = int(spec.nulls * _SPAN)
        chances = _draws(f"{name}/null", seed, first, count)
        values = [None if c < bound else v for c, v in zip(chances, values, strict=True)]
    return _array(spec.kind, values)


def _array(kind: str, values: list[Any]) -> Array:
    match kind:
        case "timestamp":
            micros = Array(values, DataType.int64())
            return Array.from_arrow(cast(micros, DataType.timestamp("us", tz="UTC")))
        case "sequence" | "int":
            return Array(values, DataType.int64())
        case "float":
            return Array(values, DataType.float64())
        case "bool":
            return Array(values, DataType.bool())
        case _:
            return Array(values, DataType.utf8())


def _mapped(spec: GeneratedColumn, draws: array.array[int]) -> list[Any]:
    low, width = spec.low, spec.high - spec.low
    match spec.kind:
        case "int":
            return [low + draw % (width + 1) for draw in draws]
        case "float":
            return [low + round(draw / _SPAN * width, 4) for draw in draws]
        case "bool":
            return [draw & 1 == 1 for draw in draws]
        case _:
            choices = spec.choices
            return [choices[draw % len(choices)] for draw in draws]


def _texts(name: str, length: int, *, seed: int, first: int, count: int) -> list[Any]:
    """Return texts of equal length; a byte of chance is a letter."""
    blocks = range(first // _BLOCK, -(-(first + count) // _BLOCK))
    chance = (shake_128(f"{seed}/{name}/{b}".encode()).digest(length * _BLOCK) for b in blocks)
    letters = b"".join(chance).translate(_LETTERS).decode()
    skip = first % _BLOCK
    return [letters[at * length : (at + 1) * length] for at in range(skip, skip + count)]


def _uuid(high: int, low: int) -> str:
    """Return version 4 by form; it is a function of the seed."""
    value = (high & ~0xF000 | 0x4000) << 64 | (low & (1 << 62) - 1 | 1 << 63)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _draws(label: str, seed: int, first: int, count: int) -> array.array[int]:
    """Return 64 bits of chance for each row of the range."""
    out = array.array("Q")
    for block in range(first // _BLOCK, -(-(first + count) // _BLOCK)):
        out.frombytes(shake_128(f"{seed}/{label}/{block}".encode()).digest(8 * _BLOCK))
    if sys.byteorder == "big":
        out.byteswap()
    skip = first % _BLOCK
    return out[skip : skip + count]
