"""Give columns other names. Spec and configuration; the step loads on `build`."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.transforms.rename.config import RenameConfig

    return RenameConfig


def _step(settings: Any) -> Any:
    from mycelial.transforms.rename.step import RenameStep

    return RenameStep(settings)


PLUGIN = PluginSpec(
    name="rename",
    summary="Give columns other names",
    transform=Loader(_config, _step),
    requires=("arro3.core",),
    preload=("arro3.core",),
    guarantee="Pure: keeps the pair's guarantee.",
)
