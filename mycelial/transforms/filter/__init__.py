"""Keep the rows for which a SQL expression is true.

Spec and configuration; the step loads on `build`.
"""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.transforms.filter.config import FilterConfig

    return FilterConfig


def _step(settings: Any) -> Any:
    from mycelial.transforms.filter.step import FilterStep

    return FilterStep(settings)


PLUGIN = PluginSpec(
    name="filter",
    summary="Keep the rows for which a SQL expression is true",
    transform=Loader(_config, _step),
    requires=("arro3.core", "arro3.compute", "duckdb"),
    extra="duckdb",
    guarantee=(
        "Pure unless the expression calls random() or now() or the like; then the pair is "
        "at-least-once."
    ),
)
