"""Which data a pipeline moves: the part of its configuration that its checkpoint belongs to.

Stdlib only; pure. The plan asks it what a change does (re-snapshot or not), the resolver puts its
digest into the checkpoint scope; both must agree, or a new table would go on from the position in
the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mycelial.kernel.canonical import digest
from mycelial.schemas.desired import PluginUse

# Configuration keys that say *which* data is meant, whatever the plugin.
_WHERE: tuple[str, ...] = (
    *("url", "host", "port", "database", "schema", "table", "path", "connection", "bucket"),
    *("prefix", "topic", "queue", "stream", "sheet", "key", "mode"),
)
SOURCE_IDENTITY: tuple[str, ...] = (
    *(*_WHERE, "paths", "glob", "tables", "view", "query", "cursor", "cursor_column"),
    *("publication", "slot"),
)
DESTINATION_IDENTITY: tuple[str, ...] = (*_WHERE, "format", "partition_by")


def identity_of(source: PluginUse, destination: PluginUse) -> str:
    """Return a digest of what the two resolved ends are; other settings leave it as it is."""
    ends = ((source, SOURCE_IDENTITY), (destination, DESTINATION_IDENTITY))
    return digest(
        [
            [use.plugin, use.endpoint, _plain({key: use.config.get(key) for key in keys})]
            for use, keys in ends
        ]
    )


def _plain(value: Any) -> Any:
    """Return JSON in which a key that is null is no key: a default spelled out changes nothing."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
