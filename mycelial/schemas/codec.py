"""Dataclasses to JSON and back, without pydantic, for what daemons and control plane exchange.

Readers ignore unknown fields and fill missing ones from defaults, so that N-1 and N+1 can talk.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class DecodeError(ValueError):
    """A value has the wrong shape; the message starts with the path of the field."""


def encode(value: Any) -> Any:
    """Return `value` as plain JSON values. Fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: encode(item) for name, item in pairs if item is not None}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        items = sorted(value) if isinstance(value, frozenset | set) else value
        return [encode(item) for item in items]
    return value


def decode(cls: type[T], data: Any) -> T:
    """Build a `cls` from plain JSON values.

    Raises: DecodeError naming the field when a value has the wrong type or is missing.
    """
    return typing.cast("T", _decode(cls, data, cls.__name__))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _decode(hint: Any, data: Any, path: str) -> Any:
    if hint is Any:
        return data
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(hint, data, path)
    if origin is typing.Literal:
        if data not in typing.get_args(hint):
            raise DecodeError(f"{path}: {data!r} is none of {typing.get_args(hint)}")
        return data
    if origin is not None:
        return _decode_container(origin, typing.get_args(hint), data, path)
    if hasattr(hint, "__supertype__"):  # a NewType
        return _decode(hint.__supertype__, data, path)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast("type", hint), data, path)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(data)
        except ValueError as error:
            raise DecodeError(f"{path}: {data!r} is not a {hint.__name__}") from error
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (hint is int and isinstance(data, bool)):
        raise DecodeError(f"{path}: expected {hint.__name__}, found {type(data).__name__}")
    return data


def _decode_union(hint: Any, data: Any, path: str) -> Any:
    options = typing.get_args(hint)
    if data is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    failures = []
    for option in options:
        try:
            return _decode(option, data, path)
        except DecodeError as error:
            failures.append(str(error))
    raise DecodeError("; ".join(failures) or f"{path}: null is not allowed")


def _decode_container(origin: Any, args: tuple[Any, ...], data: Any, path: str) -> Any:
    if origin in (tuple, list, frozenset):
        if not isinstance(data, list | tuple):
            raise DecodeError(f"{path}: expected a list, found {type(data).__name__}")
        if origin is tuple and args[-1] is not Ellipsis:  # one type per place
            if len(args) != len(data):
                raise DecodeError(f"{path}: expected {len(args)} items, found {len(data)}")
            pairs = enumerate(zip(args, data, strict=True))
            return tuple(_decode(hint, item, f"{path}[{i}]") for i, (hint, item) in pairs)
        return origin(_decode(args[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, Mapping):
        raise DecodeError(f"{path}: expected an object, found {type(data).__name__}")
    return {str(k): _decode(args[1], item, f"{path}.{k}") for k, item in data.items()}


def _decode_dataclass(cls: type, data: Any, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise DecodeError(f"{path}: expected an object, found {type(data).__name__}")
    hints, known = _hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    values = {
        name: _decode(hints[name], data[name], f"{path}.{name}") for name in known if name in data
    }
    required = (
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    for name in required:
        if name not in values:
            values[name] = _decode(hints[name], None, f"{path}.{name}")  # ok only for Optional
    return cls(**values)
