"""Parquet datasets. Specs and configuration; the drivers load on `build`."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _source_config() -> Any:
    from mycelial.connectors.parquet.config import ParquetSourceConfig

    return ParquetSourceConfig


def _source(settings: Any) -> Any:
    from mycelial.connectors.parquet.source import ParquetSource

    return ParquetSource(settings)


def _destination_config() -> Any:
    from mycelial.connectors.parquet.config import ParquetDestinationConfig

    return ParquetDestinationConfig


def _destination(settings: Any) -> Any:
    from mycelial.connectors.parquet.destination import ParquetDestination

    return ParquetDestination(settings)


PLUGIN = PluginSpec(
    name="parquet",
    summary="Folders of Parquet files, streamed in and published whole",
    source=Loader(_source_config, _source),
    destination=Loader(_destination_config, _destination),
    requires=("arro3.core", "arro3.io", "arro3.compute"),
    preload=("arro3.core", "arro3.io", "arro3.compute"),
    guarantee=(
        "As a source: rows of a file keep their order, so a position is a row number and every "
        "range can be read again. As a destination: exactly-once on a local disk. A unit is one "
        "file: written under a hidden name, fsynced, announced in the journal, renamed, and "
        "entered in the journal with the source position and the fence. A program that globs "
        "`*.parquet` sees whole files only; between rename and entry, an instant unless the "
        "machine dies just there, it may see one file whose commit is completed at the next "
        "start. With mode `replace`, rows of a run stay hidden until the run is whole; then the "
        "link `current` moves to it in one step. Read `<path>/current/*.parquet`. Network shares "
        "give no such promise."
    ),
)
