"""CSV files, read and written exactly. Specs and configuration; the drivers load on `build`."""

from __future__ import annotations

from typing import Any

from mycelial.sdk.plugin import Loader, PluginSpec


def _source_config() -> Any:
    from mycelial.connectors.csv.config import CsvSourceConfig

    return CsvSourceConfig


def _source(settings: Any) -> Any:
    from mycelial.connectors.csv.source import CsvSource

    return CsvSource(settings)


def _destination_config() -> Any:
    from mycelial.connectors.csv.config import CsvDestinationConfig

    return CsvDestinationConfig


def _destination(settings: Any) -> Any:
    from mycelial.connectors.csv.destination import CsvDestination

    return CsvDestination(settings)


PLUGIN = PluginSpec(
    name="csv",
    summary="CSV and other delimited text files: strict to read, exact to write",
    source=Loader(_source_config, _source),
    destination=Loader(_destination_config, _destination),
    requires=("arro3.core", "arro3.io", "arro3.compute"),
    preload=("arro3.core", "arro3.io", "arro3.compute"),
    guarantee=(
        "As a source: every byte range can be read again and gives the same rows, so the pair is "
        "exactly-once whenever the destination is. Files are moved or deleted only after their "
        "rows are committed. As a destination: exactly-once on a local disk. Rows of a unit are "
        "staged beside the file, appended under a lock, fsynced, and then entered with the source "
        "position in a journal; whatever is longer than the journal says is cut off when the file "
        "is opened again. A program that reads the file at the moment of a commit may see part of "
        "that unit; layout `files` and mode `replace` publish whole files by rename instead. "
        "Network shares give no such promise."
    ),
)
