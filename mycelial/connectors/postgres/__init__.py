"""PostgreSQL: reads tables and queries, writes tables exactly once.

Lives here: configuration, connection and error codes, the catalog, source and destination.
What is shared with other databases (types, write modes, positions) is in `sdk/kit`.
Data flow: server -> COPY binary -> Arrow batch, and back, by ADBC without pyarrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycelial.sdk.plugin import Loader, PluginSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mycelial.connectors.postgres.config import PostgresDestinationConfig, PostgresSourceConfig
    from mycelial.connectors.postgres.destination import PostgresDestination
    from mycelial.connectors.postgres.source import PostgresSource


def _source_config() -> type[BaseModel]:
    from mycelial.connectors.postgres.config import PostgresSourceConfig

    return PostgresSourceConfig


def _destination_config() -> type[BaseModel]:
    from mycelial.connectors.postgres.config import PostgresDestinationConfig

    return PostgresDestinationConfig


def _source(config: PostgresSourceConfig) -> PostgresSource:
    from mycelial.connectors.postgres.source import PostgresSource

    return PostgresSource(config)


def _destination(config: PostgresDestinationConfig) -> PostgresDestination:
    from mycelial.connectors.postgres.destination import PostgresDestination

    return PostgresDestination(config)


PLUGIN = PluginSpec(
    name="postgres",
    summary="Tables and queries of a PostgreSQL database.",
    source=Loader(_source_config, _source),
    destination=Loader(_destination_config, _destination),
    requires=("adbc_driver_manager", "adbc_driver_postgresql", "arro3.core", "arro3.compute"),
    extra="postgres",
    preload=(
        "adbc_driver_manager",
        "adbc_driver_postgresql",
        "arro3.core",
        "arro3.compute",
        "mycelial.connectors.postgres.source",
        "mycelial.connectors.postgres.destination",
    ),
    guarantee=(
        "Exactly once: rows and position commit in one transaction, which also compares the fence. "
        "A commit whose answer is lost is settled by reading the position back. Reads by cursor "
        "deliver each row once when a primary key, or a declared key, breaks ties."
    ),
)
