"""Add columns with a constant value. Spec and configuration; the step loads on `build`."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.transforms.tag.config import TagConfig

    return TagConfig


def _step(settings: Any) -> Any:
    from mycelial.transforms.tag.step import TagStep

    return TagStep(settings)


PLUGIN = PluginSpec(
    name="tag",
    summary="Add columns with a constant value",
    transform=Loader(_config, _step),
    requires=("arro3.core", "arro3.compute"),
    preload=("arro3.core", "arro3.compute"),
    guarantee="Pure: keeps the pair's guarantee.",
)
