"""Checked files on disk, so that a restart of a large repository parses nothing again.

A cache: a damaged file is deleted and begun anew, and an unwritable disk only costs time.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from mycelial.kernel.clock import Clock
from mycelial.kernel.ports import Log

FORMAT = 1
KEEP_SECONDS = 30 * 86400.0
_VARIABLES_MAX = 500


class DiskParseCache:
    """Implements `compiling.ParseStore` in one SQLite file; used from one thread."""

    def __init__(self, path: Path, *, clock: Clock, log: Log) -> None:
        self._path = path
        self._clock = clock
        self._log = log
        self._db: sqlite3.Connection | None = None
        self._was_reset = False

    def get(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        """Return what is known of the keys."""
        wanted, found = list(keys), {}
        try:
            db = self._open()
            for start in range(0, len(wanted), _VARIABLES_MAX):
                part = wanted[start : start + _VARIABLES_MAX]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value FROM checked WHERE key IN ({marks})"  # noqa: S608
                found.update(
                    {key: zlib.decompress(value) for key, value in db.execute(query, part)}
                )
        except (sqlite3.Error, zlib.error, OSError) as error:
            self._give_up(error)
            return {}
        return found

    def put(self, values: Mapping[str, bytes]) -> None:
        """Keep values, and forget those that nobody has needed for a month."""
        now = self._clock.now()
        rows = [(key, zlib.compress(value, 1), now) for key, value in values.items()]
        try:
            with self._open() as db:
                db.executemany("INSERT OR REPLACE INTO checked VALUES (?, ?, ?)", rows)
                db.execute("DELETE FROM checked WHERE made_at < ?", (now - KEEP_SECONDS,))
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # Used on the source's thread, closed by whoever shuts down.
            db = sqlite3.connect(self._path, check_same_thread=False, timeout=1.0)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")  # a cache: a power cut may take it
            if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                db.execute("DROP TABLE IF EXISTS checked")
                db.execute(
                    "CREATE TABLE checked (key TEXT PRIMARY KEY, value BLOB NOT NULL, "
                    "made_at REAL NOT NULL) WITHOUT ROWID"
                )
                db.execute(f"PRAGMA user_version = {FORMAT}")
            self._db = db
        return self._db

    def _give_up(self, error: Exception) -> None:
        """Start over once with an empty file; after that, work without one until it heals."""
        self._log.warning("the parse cache is set aside", error=str(error))
        self.close()
        if isinstance(error, OSError) or self._was_reset:
            return
        self._was_reset = True
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
