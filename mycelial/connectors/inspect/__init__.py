"""Shows rows to people. Spec and configuration."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.connectors.inspect.config import InspectConfig

    return InspectConfig


def _destination(settings: Any) -> Any:
    from mycelial.connectors.inspect.destination import InspectDestination

    return InspectDestination(settings)


PLUGIN = PluginSpec(
    name="inspect",
    summary="Print rows as JSON lines, or only count them",
    destination=Loader(_config, _destination),
    requires=("arro3.core",),
    preload=("arro3.core",),
    guarantee=(
        "At-least-once: rows are printed when their unit commits, and nothing remembers that. "
        "After a crash the last unit may be printed again."
    ),
)
