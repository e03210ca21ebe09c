"""Keep, drop and order columns. Spec and configuration; the step loads on `build`."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.transforms.select.config import SelectConfig

    return SelectConfig


def _step(settings: Any) -> Any:
    from mycelial.transforms.select.step import SelectStep

    return SelectStep(settings)


PLUGIN = PluginSpec(
    name="select",
    summary="Keep, drop and order columns",
    transform=Loader(_config, _step),
    requires=("arro3.core",),
    preload=("arro3.core",),
    guarantee="Pure: keeps the pair's guarantee.",
)
