"""A real fleet in a temporary folder, for the benchmarks that need running processes."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from fleet_processes import Fleet

DAEMON = "box"
DATA = "data"


@contextlib.contextmanager
def fleet(*server_arguments: str) -> Iterator[Fleet]:
    """Yield a control plane and one joined daemon that may read and write the folder DATA."""
    with (
        tempfile.TemporaryDirectory(prefix="mycelial-bench-") as folder,
        Fleet(Path(folder)) as running,
    ):
        running.server.argv = [*running.server.argv, *server_arguments]
        running.start_server()
        running.add_daemon(DAEMON, writes=[DATA])
        running.until_online()
        yield running


def make_table(database: Path, table: str, rows: int) -> None:
    """Create a table of an id, a text and a number, and fill it."""
    connection = sqlite3.connect(database)
    try:
        with connection:
            connection.execute("pragma journal_mode=wal")
            connection.execute(
                f"create table {table} (id integer primary key, name text not null, price real)"
            )
            connection.executemany(
                f"insert into {table} (name, price) values (?, ?)",
                ((f"thing {n}", n * 0.25) for n in range(rows)),
            )
    finally:
        connection.close()


def count(database: Path, table: str) -> int:
    """Return how many rows a table has."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])
    finally:
        connection.close()


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)]
