"""A SQLite table that grows while a pipeline reads it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

PAUSE_SECONDS = 0.02


class LiveTable:
    """Rows (id, name, cents) in a table of their own; `growing` inserts in a thread."""

    def __init__(self, database: Path, name: str, rows: int = 100) -> None:
        self.database, self.name = database, name
        self.sql(f"create table {name} (id integer primary key, name text not null, cents integer)")
        self.add(rows)

    def add(self, rows: int) -> None:
        """Insert rows in one transaction."""
        first = self.count() + 1
        with contextlib.closing(self._connect()) as connection, connection:
            connection.executemany(
                f"insert into {self.name} values (?, ?, ?)",
                [(n, f"thing {n}", n * 7 % 1000) for n in range(first, first + rows)],
            )

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """Insert a few rows again and again until the block ends."""
        closing = threading.Event()

        def grow() -> None:
            while not closing.wait(PAUSE_SECONDS):
                self.add(3)

        thread = threading.Thread(target=grow, name=f"grow {self.name}")
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()

    def rows(self) -> list[tuple[object, ...]]:
        """Return all rows, sorted."""
        return sorted(self.sql(f"select id, name, cents from {self.name}"))

    def count(self) -> int:
        """Return how many rows there are."""
        ((count,),) = self.sql(f"select count(*) from {self.name}")
        return int(str(count))

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement in a transaction of its own."""
        with contextlib.closing(self._connect()) as connection, connection:
            return connection.execute(statement).fetchall()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.database, timeout=10)
        connection.execute("pragma journal_mode=wal")
        return connection
