"""Change column types; a value that does not fit is rejected.

Spec and configuration; the step loads on `build`.
"""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.transforms.cast.config import CastConfig

    return CastConfig


def _step(settings: Any) -> Any:
    from mycelial.transforms.cast.step import CastStep

    return CastStep(settings)


PLUGIN = PluginSpec(
    name="cast",
    summary="Change column types; a value that does not fit is rejected",
    transform=Loader(_config, _step),
    requires=("arro3.core", "arro3.compute"),
    preload=("arro3.core", "arro3.compute"),
    guarantee="Pure: keeps the pair's guarantee.",
)
