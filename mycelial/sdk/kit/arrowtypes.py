"""Arrow types by name, in both directions; schemas of batches and of plans.

Names are those Arrow itself prints: `int64`, `utf8`, `timestamp[us, tz=UTC]`,
`decimal128(20, 2)`, `list<item: int64>`, `struct<a: int64, b: utf8>`. Imports arro3: call from
drivers, not from spec modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from arro3.core import DataType, Field, RecordBatch, Schema

from mycelial.sdk.envelope import Column, StreamSchema

_SIMPLE: dict[str, DataType] = {
    "null": DataType.null(),
    "bool": DataType.bool(),
    "int8": DataType.int8(),
    "int16": DataType.int16(),
    "int32": DataType.int32(),
    "int64": DataType.int64(),
    "uint8": DataType.uint8(),
    "uint16": DataType.uint16(),
    "uint32": DataType.uint32(),
    "uint64": DataType.uint64(),
    "float16": DataType.float16(),
    "float32": DataType.float32(),
    "float64": DataType.float64(),
    "date32": DataType.date32(),
    "date64": DataType.date64(),
    "binary": DataType.binary(),
    "large_binary": DataType.large_binary(),
    "binary_view": DataType.binary_view(),
    "utf8": DataType.utf8(),
    "large_utf8": DataType.large_utf8(),
    "string_view": DataType.string_view(),
}
_ALIASES = {
    "string": "utf8",
    "text": "utf8",
    "large_string": "large_utf8",
    "utf8_view": "string_view",
    "boolean": "bool",
    "int": "int64",
    "integer": "int64",
    "bigint": "int64",
    "float": "float64",
    "double": "float64",
    "date": "date32",
    "timestamp": "timestamp[us]",
    "timestamptz": "timestamp[us, tz=UTC]",
    "time": "time64[us]",
}
_TEMPORAL = re.compile(r"(timestamp|time32|time64|duration)\[(s|ms|us|ns)(?:,\s*(?:tz=)?(.+))?\]")
_DECIMAL = re.compile(r"decimal(128|256)?\((\d+)\s*,\s*(-?\d+)\)")
_FIXED = re.compile(r"(?:binary|fixed_size_binary)[\[(](\d+)[\])]")
_NESTED = re.compile(r"(list|large_list|struct)<(.*)>", re.DOTALL)


def parse_type(name: str) -> DataType:
    """Return the type called `name`. Raises: ValueError."""
    text = _ALIASES.get(name.strip().lower(), name.strip())
    if text in _SIMPLE:
        return _SIMPLE[text]
    if found := _TEMPORAL.fullmatch(text):
        kind, unit, zone = found.groups()
        make: dict[str, Any] = {"time32": DataType.time32, "time64": DataType.time64}
        if kind == "timestamp":
            return DataType.timestamp(cast("Any", unit), tz=zone)
        if kind == "duration" and zone is None:
            return DataType.duration(cast("Any", unit))
        if zone is None and (kind == "time32") == (unit in ("s", "ms")):
            return cast("DataType", make[kind](unit))
    if found := _DECIMAL.fullmatch(text):
        width, precision, scale = found[1] or "128", int(found[2]), int(found[3])
        if 0 < precision <= (38 if width == "128" else 76) and scale <= precision:
            make_decimal = DataType.decimal128 if width == "128" else DataType.decimal256
            return make_decimal(precision, scale)
    if found := _FIXED.fullmatch(text):
        return DataType.binary(int(found[1]))
    if found := _NESTED.fullmatch(text):
        return _nested(found[1], found[2])
    raise ValueError(f'"{name}" is no Arrow type; examples: int64, utf8, timestamp[us, tz=UTC]')


def _nested(kind: str, inner: str) -> DataType:
    fields = [
        Field(label.strip(), parse_type(body))
        for label, _, body in (part.partition(":") for part in _split(inner))
    ]
    if kind == "struct":
        return DataType.struct(fields)
    return DataType.list(fields[0]) if kind == "list" else DataType.large_list(fields[0])


def _split(text: str) -> Iterator[str]:
    """Split at the commas that are in no bracket."""
    depth = start = 0
    for index, char in enumerate(text):
        depth += (char in "<([") - (char in ">)]")
        if char == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


_BY_TYPE = {kind: name for name, kind in _SIMPLE.items()}


def type_name(kind: DataType) -> str:
    """Return Arrow's name of a type; a dictionary is called by what it holds."""
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    if bool(DataType.is_timestamp(kind)):
        return f"timestamp[{kind.time_unit}{f', tz={kind.tz}' if kind.tz else ''}]"
    for check, name in (
        (DataType.is_time32, "time32"),
        (DataType.is_time64, "time64"),
        (DataType.is_duration, "duration"),
    ):
        if bool(check(kind)):
            return f"{name}[{kind.time_unit}]"
    if bool(DataType.is_dictionary(kind)) and kind.value_type is not None:
        return type_name(kind.value_type)
    if bool(DataType.is_struct(kind)):
        body = ", ".join(f"{field.name}: {type_name(field.type)}" for field in kind.fields)
        return f"struct<{body}>"
    for check, name in ((DataType.is_list, "list"), (DataType.is_large_list, "large_list")):
        if bool(check(kind)) and kind.value_field is not None:
            return f"{name}<{kind.value_field.name}: {type_name(kind.value_field.type)}>"
    # arro3 shows precision, scale and width only in its repr: `...DataType<Decimal128(20, 2)>`.
    shown = repr(kind).strip().removeprefix("arro3.core.DataType<").removesuffix(">")
    if bool(DataType.is_decimal(kind)):
        return shown.lower()
    if bool(DataType.is_fixed_size_binary(kind)):
        return f"fixed_size_binary[{shown.removeprefix('FixedSizeBinary(').removesuffix(')')}]"
    return shown


def arrow_schema(stream: StreamSchema) -> Schema:
    """Return the Arrow schema of a planned stream."""
    return Schema([Field(c.name, parse_type(c.type), nullable=c.nullable) for c in stream.columns])


def stream_schema(
    name: str, schema: Schema, key: tuple[str, ...] = (), *, incremental: bool = False
) -> StreamSchema:
    """Return the planned form of an Arrow schema."""
    fields = [schema.field(index) for index in range(len(schema))]
    columns = tuple(Column(f.name, type_name(f.type), f.nullable) for f in fields)
    return StreamSchema(name, columns, key, incremental)


def conforms(batch: RecordBatch, schema: Schema) -> bool:
    """Tell whether a batch has exactly the schema's names and types; nullability and metadata
    are not compared."""
    theirs = batch.schema
    return theirs.names == schema.names and theirs.types == schema.types
