"""What this machine is and can do, as reported. Capabilities are asked of the composition root:
the daemon imports neither plugins nor drivers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mycelial.daemon.config import DaemonConfig
from mycelial.daemon.policy import declared_endpoints, policy_digest
from mycelial.schemas.wire import Inventory


@dataclass(frozen=True, slots=True)
class Abilities:
    """What is installed: `connector/sqlite`, ..., and the version of each plugin."""

    capabilities: tuple[str, ...] = ()
    plugin_versions: Mapping[str, str] = field(default_factory=dict)


def take_inventory(
    config: DaemonConfig,
    *,
    version: str,
    abilities: Callable[[], Abilities],
    labels: Mapping[str, str],
) -> Inventory:
    """Return the inventory. A capability that local policy forbids is not offered for placement."""
    found = abilities()
    allowed = config.policy.connectors
    offered = (
        name
        for name in found.capabilities
        if allowed is None
        or not name.startswith("connector/")
        or name.removeprefix("connector/") in allowed
    )
    return Inventory(
        version=version,
        platform=f"{platform.system().lower()}-{platform.machine().lower()}",
        capabilities=tuple(sorted(offered)),
        endpoints=declared_endpoints(config),
        labels={**labels, **config.node.labels},
        policy_digest=policy_digest(config),
        plugin_versions=found.plugin_versions,
    )
