"""Rows made from a seed: for demos, tests and load. Spec and configuration."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _config() -> Any:
    from mycelial.connectors.generate.config import GenerateConfig

    return GenerateConfig


def _source(settings: Any) -> Any:
    from mycelial.connectors.generate.source import GenerateSource

    return GenerateSource(settings)


PLUGIN = PluginSpec(
    name="generate",
    summary="Rows made from a seed, for demos, tests and load",
    source=Loader(_config, _source),
    requires=("arro3.core", "arro3.compute"),
    preload=("arro3.core", "arro3.compute"),
    guarantee=(
        "Every row is a function of the seed and its number, so any range can be made again: the "
        "pair is exactly-once whenever the destination is."
    ),
)
