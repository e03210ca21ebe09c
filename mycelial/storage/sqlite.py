"""The default store: one SQLite file, WAL, `synchronous=FULL`, one writer at a time.

With NORMAL a power cut takes back what was acknowledged (measured: 20 of 20 rows); FULL loses none.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mycelial.kernel.entropy import new_hex
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.files import fsync_dir
from mycelial.reconciler.observed import Duty, KnownWorkflow, Ledger
from mycelial.schemas.codec import DecodeError
from mycelial.schemas.wire import SignedSet
from mycelial.storage import faults
from mycelial.storage.base import DaemonRecord, Event, FleetWrite, JoinToken, StoredReport
from mycelial.storage.migrations import APPLICATION_ID, migrate
from mycelial.storage.rows import dump, load
from mycelial.storage.rules import (
    COLLAPSE_WITHIN_SECONDS,
    EVENTS_MAX,
    collapsed,
    delta_of,
    used_token,
)

BUSY_TIMEOUT_SECONDS = 5.0


class SqliteStore:
    """A Store in one file, readable by its owner only. Safe for several threads.

    Two processes may open one file: versions are compared inside the write transaction (R5).
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
        events_max: int = EVENTS_MAX,
    ) -> None:
        """Open the store, making it if there is none.

        Raises: StateCorrupt when the file is damaged or not ours; it is never replaced silently.
        """
        self._path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._events_max = events_max
        self._lock = threading.RLock()
        self._cached: Ledger | None = None
        self._is_closed = False
        if not path.exists():
            self._create()
        with self._translated():
            self._db = self._open(path)
            try:
                self._store_id = str(self._meta("store_id"))
            except BaseException:
                self._db.close()
                raise

    # -- opening ---------------------------------------------------------------------------------

    def _create(self) -> None:
        """Make the file complete under another name first: a crash leaves no half of a store."""
        leftovers = [name for name in _sidecars(self._path) if name.exists()]
        if leftovers:
            raise faults.corrupt(self._path, f"it is gone, but {leftovers[0].name} is still there")
        temporary = self._path.with_name(f".{self._path.name}.{new_hex(4)}.new")
        with self._translated():
            _touch_private(temporary)
            try:
                with contextlib.closing(self._connect(temporary)) as db:
                    _configure(db)
                    migrate(db, temporary)
                    rows = {"store_id": new_hex(16), "ledger_version": "0"}
                    db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
                # A hard link refuses to replace what another process made in the meantime.
                with contextlib.suppress(FileExistsError):
                    _publish(temporary, self._path)
            finally:
                for leftover in (temporary, *_sidecars(temporary)):
                    leftover.unlink(missing_ok=True)
        fsync_dir(self._path.parent)

    def _connect(self, path: Path) -> sqlite3.Connection:
        return sqlite3.connect(
            path,
            timeout=self._busy_timeout_seconds,
            isolation_level=None,  # transactions are ours to begin
            check_same_thread=False,  # the lock serialises threads
        )

    def _open(self, path: Path) -> sqlite3.Connection:
        if path.stat().st_size == 0:  # SQLite would take it for a new database
            raise faults.corrupt(path, "the file is empty")
        db = self._connect(path)
        try:
            self._check(db)  # before anything writes: what is not ours stays as it is
            _configure(db)
            migrate(db, path)
        except BaseException:
            db.close()
            raise
        if os.name != "nt":
            path.chmod(0o600)
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise faults.corrupt(self._path, "it is not a database of Mycelial")
        found = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise faults.corrupt(self._path, "; ".join(found))
        orphan = db.execute("PRAGMA foreign_key_check").fetchone()
        if orphan is not None:
            raise faults.corrupt(self._path, f"a row of {orphan[0]} refers to nothing")

    # -- access ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise faults.translate(error, self._path) from error
        except DecodeError as error:
            raise faults.corrupt(self._path, str(error)) from error
        except OSError as error:
            fix = "check that the directory exists, is writable and has space"
            raise OperationFailed(faults.IO_ERROR, f"the store failed: {error}", fix=fix) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._translated():
            self._refuse_closed()
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, exclusive from its start; all or nothing. May be nested."""
        with self._lock, self._translated():
            self._refuse_closed()
            if self._is_writing():
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._is_writing():  # SQLite rolls back by itself when the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _is_writing(self) -> bool:
        return self._db.in_transaction

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise OperationFailed(faults.CLOSED, "the store is closed", fix="open it again")

    def _one(self, sql: str, *values: object) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._db.execute(sql, values).fetchone()
        return row

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set_meta(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def store_id(self) -> str:
        """Return the id made with the store."""
        return self._store_id

    def renew_store_id(self) -> str:
        """Give a restored backup a new id, so that daemons ahead of it notice. Returns the id."""
        fresh = new_hex(16)
        with self._writing():
            self._set_meta("store_id", fresh)
        self._store_id = fresh
        return fresh

    def backup(self, target: Path) -> None:
        """Copy the store into a new file while it is in use. Raises: OperationFailed."""
        with self._reading():
            _touch_private(target)
            with contextlib.closing(sqlite3.connect(target)) as copy:
                self._db.backup(copy)
            fsync_dir(target.parent)

    # -- the ledger ------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        """Return the ledger as last written, decoded once per version."""
        with self._reading():
            version = int(self._meta("ledger_version") or 0)
            if self._cached is None or self._cached.version != version:
                self._cached = self._load_ledger()
            return self._cached

    def _load_ledger(self) -> Ledger:
        self._db.execute("BEGIN")  # one snapshot for all tables
        try:
            known = [load(KnownWorkflow, row[0]) for row in self._rows("SELECT body FROM known")]
            duties = [load(Duty, row[0]) for row in self._rows("SELECT body FROM duties")]
            revs = {str(row[0]): int(row[1]) for row in self._rows("SELECT * FROM revs")}
            version = int(self._meta("ledger_version") or 0)
            confirmed = frozenset(json.loads(self._meta("confirmed_deletions") or "[]"))
        finally:
            self._db.execute("COMMIT")
        return Ledger(
            version=version,
            known={item.uid: item for item in known},
            duties={(item.daemon_id, item.uid): item for item in duties},
            revs=revs,
            confirmed_deletions=confirmed,
        )

    def _rows(self, sql: str, *values: object) -> sqlite3.Cursor:
        return self._db.execute(sql, values)

    def write_fleet(self, write: FleetWrite) -> int:
        """Apply the delta in one transaction and return the new version. Raises: Conflict."""
        with self._lock:
            before = self._cached
            try:
                with self._writing():
                    version = self._next_version(write.expected_version)
                    self._write_ledger(write)
                    self._write_sets(write)
                    if write.applied_revision is not None:
                        self.set_value("applied_revision", write.applied_revision)
                    self.add_events(write.events)
            except OperationFailed as error:
                raise self._explained(error, write) from error
            current = before is not None and before.version == write.expected_version
            self._cached = before.after(delta_of(write)) if before and current else None
            return version

    def _next_version(self, expected: int) -> int:
        found = int(self._meta("ledger_version") or 0)
        if found != expected:
            raise faults.version_moved(expected=expected, found=found)
        self._set_meta("ledger_version", str(found + 1))
        return found + 1

    def _write_ledger(self, write: FleetWrite) -> None:
        put = "INSERT INTO known VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
        self._db.executemany(put, ((item.uid, dump(item)) for item in write.known))
        put = "INSERT INTO duties VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
        self._db.executemany(put, ((d.daemon_id, d.uid, dump(d)) for d in write.duties))
        drop = "DELETE FROM duties WHERE daemon_id = ? AND uid = ?"
        self._db.executemany(drop, write.ended)
        put = "INSERT OR REPLACE INTO revs VALUES (?, ?)"
        self._db.executemany(put, write.revs.items())
        if write.confirmed_deletions is not None:
            self._set_meta("confirmed_deletions", json.dumps(sorted(write.confirmed_deletions)))

    def _write_sets(self, write: FleetWrite) -> None:
        put = "INSERT OR REPLACE INTO signed_sets VALUES (?, ?, ?, ?)"
        rows = ((i, s.payload, s.signature, s.key_id) for i, s in write.sets.items())
        self._db.executemany(put, rows)

    def _explained(self, error: OperationFailed, write: FleetWrite) -> OperationFailed:
        """Name the workflow when a duty's reference to it was what failed."""
        cause = error.__cause__
        if not isinstance(cause, sqlite3.IntegrityError):
            return error
        known = {row[0] for row in self._rows("SELECT uid FROM known")}
        known |= {item.uid for item in write.known}
        unknown = sorted(duty.uid for duty in write.duties if duty.uid not in known)
        return faults.not_known(unknown[0]) if unknown else error

    def signed_set(self, daemon_id: str) -> SignedSet | None:
        """Return the newest signed set of a daemon."""
        sql = "SELECT payload, signature, key_id FROM signed_sets WHERE daemon_id = ?"
        with self._reading():
            row = self._db.execute(sql, (daemon_id,)).fetchone()
        return None if row is None else SignedSet(*row)

    # -- daemons ---------------------------------------------------------------------------------

    def add_daemon(self, record: DaemonRecord) -> None:
        """Add a daemon. Raises: Conflict."""
        with self._writing():
            if self._has_daemon(record.id):
                raise faults.daemon_exists(record.id)
            self._put_daemon(record)

    def update_daemon(self, record: DaemonRecord) -> None:
        """Replace a daemon's record. Raises: OperationFailed when it never joined; Conflict."""
        with self._writing():
            if not self._has_daemon(record.id):
                raise faults.no_daemon(record.id)
            self._put_daemon(record)

    def _has_daemon(self, daemon_id: str) -> bool:
        return bool(self._one("SELECT count(*) FROM daemons WHERE id = ?", daemon_id)[0])

    def _put_daemon(self, record: DaemonRecord) -> None:
        taken = "SELECT count(*) FROM daemons WHERE name = ? AND is_revoked = 0 AND id <> ?"
        if record.revoked_at is None and self._one(taken, record.name, record.id)[0]:
            raise faults.name_taken(record.name)
        put = (
            "INSERT INTO daemons VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "name = excluded.name, is_revoked = excluded.is_revoked, body = excluded.body"
        )
        is_revoked = int(record.revoked_at is not None)
        self._db.execute(put, (record.id, record.name, is_revoked, dump(record)))

    def daemons(self) -> tuple[DaemonRecord, ...]:
        """Return all daemons ever joined, by name and id."""
        with self._reading():
            rows = self._rows("SELECT body FROM daemons ORDER BY name, id").fetchall()
            return tuple(load(DaemonRecord, row[0]) for row in rows)

    def save_reports(self, reports: Sequence[StoredReport]) -> None:
        """Keep the newest report of each daemon, all in one transaction."""
        put = (
            "INSERT INTO reports VALUES (?, ?, ?, ?) ON CONFLICT (daemon_id) DO UPDATE SET "
            "boot_id = excluded.boot_id, seq = excluded.seq, body = excluded.body "
            "WHERE excluded.boot_id <> reports.boot_id OR excluded.seq >= reports.seq"
        )
        with self._writing():
            self._db.executemany(put, ((r.daemon_id, r.boot_id, r.seq, dump(r)) for r in reports))

    def reports(self) -> tuple[StoredReport, ...]:
        """Return the newest report of each daemon, by daemon id."""
        with self._reading():
            rows = self._rows("SELECT body FROM reports ORDER BY daemon_id").fetchall()
            return tuple(load(StoredReport, row[0]) for row in rows)

    # -- tokens ----------------------------------------------------------------------------------

    def add_token(self, token: JoinToken) -> None:
        """Add a join token. Raises: Conflict."""
        with self._writing():
            if self._token(token.token_hash) is not None:
                raise faults.token_exists()
            self._db.execute("INSERT INTO tokens VALUES (?, ?)", (token.token_hash, dump(token)))

    def tokens(self) -> tuple[JoinToken, ...]:
        """Return all join tokens, oldest first."""
        with self._reading():
            rows = self._rows("SELECT body FROM tokens").fetchall()
        found = (load(JoinToken, row[0]) for row in rows)
        return tuple(sorted(found, key=lambda token: (token.created_at, token.token_hash)))

    def use_token(self, token_hash: str, *, key_hash: str, now: float) -> JoinToken | None:
        """Consume a join token; None when it may not be used by this key now."""
        with self._writing():
            token = self._token(token_hash)
            used = used_token(token, key_hash=key_hash, now=now) if token else None
            if used is not None:
                put = "UPDATE tokens SET body = ? WHERE token_hash = ?"
                self._db.execute(put, (dump(used), token_hash))
            return used

    def _token(self, token_hash: str) -> JoinToken | None:
        sql = "SELECT body FROM tokens WHERE token_hash = ?"
        row = self._db.execute(sql, (token_hash,)).fetchone()
        return None if row is None else load(JoinToken, row[0])

    # -- events and values -----------------------------------------------------------------------

    def add_events(self, events: Sequence[Event]) -> None:
        """Append events, collapsing repeats, keeping the newest."""
        if not events:
            return
        with self._writing():
            for event in events:
                self._add_event(event)
            self._trim_events()

    def _add_event(self, event: Event) -> None:
        same = (
            "SELECT id, at, message, daemon, count FROM events "
            "WHERE subject = ? AND reason = ? ORDER BY id DESC LIMIT 1"
        )
        row = self._db.execute(same, (event.subject, event.reason)).fetchone()
        if row is not None and (event.message, event.daemon) == (row[2], row[3]):
            old = replace(event, id=row[0], at=row[1], count=row[4])
            if event.at - old.at <= COLLAPSE_WITHIN_SECONDS:
                self._db.execute("DELETE FROM events WHERE id = ?", (old.id,))
                event = collapsed(event, old)
        put = (
            "INSERT INTO events (at, severity, reason, subject, message, daemon, revision, count)"
            " VALUES (:at, :severity, :reason, :subject, :message, :daemon, :revision, :count)"
        )
        self._db.execute(put, asdict(event))

    def _trim_events(self) -> None:
        # Ids have gaps where repeats collapsed, so the bound is found by counting from the newest.
        bound = "SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?"
        row = self._db.execute(bound, (self._events_max,)).fetchone()
        if row is not None:
            self._db.execute("DELETE FROM events WHERE id <= ?", (row[0],))

    def events(
        self, *, after_id: int = 0, limit: int = 200, subject: str = "", newest: bool = True
    ) -> tuple[Event, ...]:
        """Return events with an id above `after_id`, at most `limit`, newest or oldest first."""
        order = "DESC" if newest else "ASC"
        sql = (
            "SELECT at, severity, reason, subject, message, daemon, revision, id, count "  # noqa: S608
            f"FROM events WHERE id > ? AND (? = '' OR subject = ?) ORDER BY id {order} LIMIT ?"
        )
        with self._reading():
            rows = self._rows(sql, after_id, subject, subject, limit).fetchall()
        return tuple(Event(*row) for row in rows)

    def get_value(self, key: str) -> Any:
        """Return a small JSON value, or None."""
        sql = "SELECT value FROM small_values WHERE key = ?"
        with self._reading():
            row = self._db.execute(sql, (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_value(self, key: str, value: Any) -> None:
        """Store a small JSON value."""
        text = json.dumps(value, allow_nan=False)
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO small_values VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it. Idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._db.close()


def _configure(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")


def _sidecars(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _touch_private(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _publish(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system
        temporary.rename(path)
