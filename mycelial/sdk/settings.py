"""A plugin's checked configuration, as attributes, without loading pydantic in a worker.

Manifests are validated by the plugin's pydantic model where they are compiled; what reaches a
worker is that model's dump. `Settings` gives it back with the same attribute names, so a plugin
annotates its argument with the model (under TYPE_CHECKING) and reads typed attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Settings(Mapping[str, Any]):
    """A read-only view of a JSON object: nested objects are Settings, lists are tuples."""

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        try:
            return _view(self._data[name])
        except KeyError:
            raise AttributeError(f"no setting {name!r}") from None

    def __getitem__(self, key: str) -> Any:
        return _view(self._data[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"Settings({sorted(self._data)})"


def _view(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Settings(value)
    if isinstance(value, list | tuple):
        return tuple(_view(item) for item in value)
    return value
