"""Change rows with a SQL query, one batch at a time.

Spec and configuration; the step loads on `build`.
"""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.transforms.sql.config import SqlConfig

    return SqlConfig


def _step(settings: Any) -> Any:
    from mycelial.transforms.sql.step import SqlStep

    return SqlStep(settings)


PLUGIN = PluginSpec(
    name="sql",
    summary="Change rows with a SQL query, one batch at a time",
    transform=Loader(_config, _step),
    requires=("arro3.core", "arro3.compute", "duckdb"),
    extra="duckdb",
    guarantee=(
        "Pure unless the query calls random() or now() or the like; then the pair is at-least-once."
    ),
)
