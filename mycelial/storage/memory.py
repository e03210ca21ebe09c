"""The reference store: plain dictionaries under one lock, gone with the process."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mycelial.kernel.entropy import new_hex
from mycelial.reconciler.observed import Ledger
from mycelial.schemas.wire import SignedSet
from mycelial.storage import faults
from mycelial.storage.base import DaemonRecord, Event, FleetWrite, JoinToken, StoredReport
from mycelial.storage.rules import (
    EVENTS_MAX,
    collapsed,
    collapses,
    delta_of,
    replaces,
    used_token,
)


class MemoryStore:
    """A Store for tests, demos and simulation. Safe for several threads."""

    def __init__(self, *, events_max: int = EVENTS_MAX) -> None:
        self._lock = threading.RLock()
        self._store_id = new_hex(16)
        self._ledger = Ledger()
        self._sets: dict[str, SignedSet] = {}
        self._daemons: dict[str, DaemonRecord] = {}
        self._reports: dict[str, StoredReport] = {}
        self._tokens: dict[str, JoinToken] = {}
        self._events: dict[int, Event] = {}
        self._next_event = 1
        self._events_max = events_max
        self._values: dict[str, str] = {}

    def store_id(self) -> str:
        """Return the id made with the store."""
        return self._store_id

    def ledger(self) -> Ledger:
        """Return the ledger as last written."""
        with self._lock:
            return self._ledger

    def write_fleet(self, write: FleetWrite) -> int:
        """Apply the delta and return the new version. Raises: Conflict."""
        with self._lock:
            if write.expected_version != self._ledger.version:
                raise faults.version_moved(
                    expected=write.expected_version, found=self._ledger.version
                )
            after = self._ledger.after(delta_of(write))
            unknown = sorted(duty.uid for duty in write.duties if duty.uid not in after.known)
            if unknown:
                raise faults.not_known(unknown[0])
            self._ledger = after
            self._sets.update(write.sets)
            if write.applied_revision is not None:
                self.set_value("applied_revision", write.applied_revision)
            self.add_events(write.events)
            return after.version

    def signed_set(self, daemon_id: str) -> SignedSet | None:
        """Return the newest signed set of a daemon."""
        with self._lock:
            return self._sets.get(daemon_id)

    def add_daemon(self, record: DaemonRecord) -> None:
        """Add a daemon. Raises: Conflict."""
        with self._lock:
            if record.id in self._daemons:
                raise faults.daemon_exists(record.id)
            self._put_daemon(record)

    def update_daemon(self, record: DaemonRecord) -> None:
        """Replace a daemon's record. Raises: OperationFailed when it never joined; Conflict."""
        with self._lock:
            if record.id not in self._daemons:
                raise faults.no_daemon(record.id)
            self._put_daemon(record)

    def _put_daemon(self, record: DaemonRecord) -> None:
        others = (d for d in self._daemons.values() if d.id != record.id and d.revoked_at is None)
        if record.revoked_at is None and any(other.name == record.name for other in others):
            raise faults.name_taken(record.name)
        self._daemons[record.id] = record

    def daemons(self) -> tuple[DaemonRecord, ...]:
        """Return all daemons ever joined, by name and id."""
        with self._lock:
            return tuple(sorted(self._daemons.values(), key=lambda d: (d.name, d.id)))

    def save_reports(self, reports: Sequence[StoredReport]) -> None:
        """Keep the newest report of each daemon."""
        with self._lock:
            for report in reports:
                if replaces(report, self._reports.get(report.daemon_id)):
                    self._reports[report.daemon_id] = report

    def reports(self) -> tuple[StoredReport, ...]:
        """Return the newest report of each daemon, by daemon id."""
        with self._lock:
            return tuple(self._reports[daemon_id] for daemon_id in sorted(self._reports))

    def add_token(self, token: JoinToken) -> None:
        """Add a join token. Raises: Conflict."""
        with self._lock:
            if token.token_hash in self._tokens:
                raise faults.token_exists()
            self._tokens[token.token_hash] = token

    def tokens(self) -> tuple[JoinToken, ...]:
        """Return all join tokens, oldest first."""
        with self._lock:
            return tuple(
                sorted(
                    self._tokens.values(), key=lambda token: (token.created_at, token.token_hash)
                )
            )

    def use_token(self, token_hash: str, *, key_hash: str, now: float) -> JoinToken | None:
        """Consume a join token; None when it may not be used by this key now."""
        with self._lock:
            token = self._tokens.get(token_hash)
            used = used_token(token, key_hash=key_hash, now=now) if token else None
            if used is not None:
                self._tokens[token_hash] = used
            return used

    def add_events(self, events: Sequence[Event]) -> None:
        """Append events, collapsing repeats, keeping the newest."""
        with self._lock:
            for event in events:
                self._add_event(event)
            while len(self._events) > self._events_max:
                del self._events[next(iter(self._events))]

    def _add_event(self, event: Event) -> None:
        # Only the newest of the same subject and reason can be repeated.
        for old in reversed(self._events.values()):
            if (old.subject, old.reason) == (event.subject, event.reason):
                if collapses(event, old):
                    del self._events[old.id]
                    event = collapsed(event, old)
                break
        self._events[self._next_event] = replace(event, id=self._next_event)
        self._next_event += 1

    def events(
        self, *, after_id: int = 0, limit: int = 200, subject: str = "", newest: bool = True
    ) -> tuple[Event, ...]:
        """Return events with an id above `after_id`, at most `limit`, newest or oldest first."""
        with self._lock:
            found = [
                event
                for event in self._events.values()
                if event.id > after_id and subject in ("", event.subject)
            ]
        return tuple((found[::-1] if newest else found)[:limit])

    def get_value(self, key: str) -> Any:
        """Return a small JSON value, or None."""
        with self._lock:
            text = self._values.get(key)
        return None if text is None else json.loads(text)

    def set_value(self, key: str, value: Any) -> None:
        """Store a small JSON value."""
        text = json.dumps(value, allow_nan=False)
        with self._lock:
            self._values[key] = text

    def close(self) -> None:
        """Nothing to release."""
