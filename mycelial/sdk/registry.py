"""Which plugins are installed. Found by entry point `mycelial.plugins`, never imported by name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points

from mycelial.sdk.errors import Permanent
from mycelial.sdk.plugin import Loader, PluginSpec, Role

ENTRY_POINT_GROUP = "mycelial.plugins"


class Registry:
    """Plugins by name. Build one with `discover()`, or from a list in tests."""

    def __init__(self, plugins: Iterable[PluginSpec]) -> None:
        self._plugins = {plugin.name: plugin for plugin in plugins}

    @classmethod
    def discover(cls) -> Registry:
        """Load the specs of all installed plugins; imports no driver."""
        found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
        return cls(point.load() for point in found)

    @classmethod
    def discover_only(cls, names: Iterable[str]) -> Registry:
        """Load just the named plugins, for a worker that runs one pipeline."""
        wanted = set(names)
        found = [p for p in entry_points(group=ENTRY_POINT_GROUP) if p.name in wanted]
        return cls(point.load() for point in found)

    def __iter__(self) -> Iterator[PluginSpec]:
        return iter(self._plugins.values())

    def get(self, name: str) -> PluginSpec | None:
        """Return the plugin called `name`."""
        return self._plugins.get(name)

    def loader(self, name: str, role: Role) -> Loader:
        """Return the loader of a plugin's role. Raises: Permanent with near misses."""
        plugin = self._plugins.get(name)
        loader = plugin.loader(role) if plugin else None
        if loader is not None:
            return loader
        names = sorted(p.name for p in self if p.loader(role))
        near = difflib.get_close_matches(name, names, n=1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise Permanent(
            "MYC-PLUGIN-001",
            f'no {role} plugin called "{name}" is installed here',
            fix=f"{hint}installed: {', '.join(names)}",
        )

    def capabilities(self) -> tuple[str, ...]:
        """Return what a daemon reports: `connector/<name>` and `transform/<name>` of every plugin
        whose required modules can be found."""
        return tuple(
            sorted(
                f"{'transform' if plugin.transform else 'connector'}/{plugin.name}"
                for plugin in self
                if is_available(plugin)
            )
        )


def is_available(plugin: PluginSpec) -> bool:
    """Tell whether the modules that the plugin requires are installed; imports none of them."""
    return all(_exists(module) for module in plugin.requires)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
