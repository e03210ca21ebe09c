"""SQLite: reads tables and queries of a file, writes tables exactly once.

Lives here: configuration, connection and error codes, the catalog, source and destination.
What is shared with other databases (types, write modes, positions) is in `sdk/kit`.
Data flow: file -> SQLite's own rows -> Arrow batch, and back, by ADBC without pyarrow.

Only ADBC's copy of SQLite opens the file: a second copy of the library in one process (Python's
`sqlite3`) would share its POSIX locks, so that neither keeps the other out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycelial.sdk.plugin import Loader, PluginSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mycelial.connectors.sqlite.config import SqliteDestinationConfig, SqliteSourceConfig
    from mycelial.connectors.sqlite.destination import SqliteDestination
    from mycelial.connectors.sqlite.source import SqliteSource


def _source_config() -> type[BaseModel]:
    from mycelial.connectors.sqlite.config import SqliteSourceConfig

    return SqliteSourceConfig


def _destination_config() -> type[BaseModel]:
    from mycelial.connectors.sqlite.config import SqliteDestinationConfig

    return SqliteDestinationConfig


def _source(config: SqliteSourceConfig) -> SqliteSource:
    from mycelial.connectors.sqlite.source import SqliteSource

    return SqliteSource(config)


def _destination(config: SqliteDestinationConfig) -> SqliteDestination:
    from mycelial.connectors.sqlite.destination import SqliteDestination

    return SqliteDestination(config)


PLUGIN = PluginSpec(
    name="sqlite",
    summary="Tables and queries of a SQLite file.",
    source=Loader(_source_config, _source),
    destination=Loader(_destination_config, _destination),
    requires=("adbc_driver_manager", "adbc_driver_sqlite", "arro3.core", "arro3.compute"),
    preload=(
        "adbc_driver_manager",
        "adbc_driver_sqlite",
        "arro3.core",
        "arro3.compute",
        "mycelial.connectors.sqlite.source",
        "mycelial.connectors.sqlite.destination",
    ),
    guarantee=(
        "Exactly once: rows and position commit in one transaction with synchronous=FULL, which "
        "also compares the fence. Reads by cursor deliver each row once: the primary key or the "
        "rowid breaks ties. A view or query needs a declared key for that."
    ),
)
