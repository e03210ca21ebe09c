"""Rows as codec JSON, read back fast: ten thousand duties are decoded at every start.

`schemas.codec` looks at a type's hints for each value; here a type's decoder is built once.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mycelial.schemas.codec import DecodeError, decode, encode

T = TypeVar("T")
Decoder = Callable[[Any], Any]
_PLAIN = (str, int, float, bool)


def dump(value: Any) -> str:
    """Return a dataclass (or JSON value) as compact JSON text."""
    return json.dumps(encode(value), separators=(",", ":"), ensure_ascii=False)


def load(cls: type[T], text: str) -> T:
    """Build a `cls` from `dump`'s text, with the codec's rules for unknown and missing fields.

    Raises: DecodeError when the text does not hold a `cls`.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DecodeError(f"{cls.__name__}: not JSON: {error}") from error
    decoder: Decoder = _decoder(typing.cast("typing.Hashable", cls))
    try:
        return typing.cast("T", decoder(data))
    except (KeyError, TypeError, ValueError, AttributeError):
        return decode(cls, data)  # the slow path names the field that is wrong, or accepts


@functools.cache
def _decoder(hint: Any) -> Decoder:
    """Return a function that builds `hint` from well-formed JSON; it raises on anything else."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _optional(hint, args)
    if origin in (tuple, list, frozenset):
        return _sequence(origin, _decoder(args[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(None if args[1] is Any else _decoder(args[1]))
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast("type", hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    if hint in _PLAIN:
        return _scalar(typing.cast("type", hint))
    if origin is typing.Literal:
        return _literal(args)
    if hint is Any:
        return lambda data: data
    return lambda data: decode(hint, data)


def _scalar(cls: type) -> Decoder:
    def build(data: Any) -> Any:
        if type(data) is cls:
            return data
        if cls is float and type(data) is int:
            return float(data)
        raise TypeError(cls.__name__)

    return build


def _literal(allowed: tuple[Any, ...]) -> Decoder:
    def build(data: Any) -> Any:
        if data not in allowed:
            raise ValueError(data)
        return data

    return build


def _optional(hint: Any, args: tuple[Any, ...]) -> Decoder:
    others = [arg for arg in args if arg is not type(None)]
    if len(others) != 1 or len(args) == 1:
        return lambda data: decode(hint, data)
    inner = _decoder(others[0])
    return lambda data: None if data is None else inner(data)


def _sequence(origin: Any, inner: Decoder) -> Decoder:
    def build(data: Any) -> Any:
        if type(data) is not list:
            raise TypeError("list")
        return origin([inner(item) for item in data])

    return build


def _mapping(inner: Decoder | None) -> Decoder:
    def build(data: Any) -> Any:
        if type(data) is not dict:
            raise TypeError("dict")
        return data if inner is None else {key: inner(item) for key, item in data.items()}

    return build


def _dataclass(cls: type) -> Decoder:
    hints = typing.get_type_hints(cls)
    # Most fields are plain text and numbers: comparing their type here saves a call for each.
    plain = {f.name: hints[f.name] for f in dataclasses.fields(cls) if hints[f.name] in _PLAIN}
    parts: dict[str, Decoder] = {}

    def build(data: Any) -> Any:
        if not parts:  # built at first use, since a type may hold itself
            parts.update({f.name: _decoder(hints[f.name]) for f in dataclasses.fields(cls)})
        return cls(
            **{
                name: item if type(item) is plain.get(name) else parts[name](item)
                for name, item in data.items()
                if name in parts
            }
        )

    return build
