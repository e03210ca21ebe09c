"""The control plane's store. Blocking; called from one thread per store.

Writes are transactions that carry the version they read (R5). What is acknowledged to a daemon
or a person is durable before the answer (I7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mycelial.reconciler.observed import Duty, KnownWorkflow, Ledger
from mycelial.schemas.wire import Inventory, PipelineStatus, SignedSet


@dataclass(frozen=True, slots=True)
class FleetWrite:
    """One reconcile's outcome as a delta, in one transaction.

    Raises Conflict when the ledger's version is not `expected_version`.
    """

    expected_version: int
    known: tuple[KnownWorkflow, ...] = ()
    duties: tuple[Duty, ...] = ()
    ended: tuple[tuple[str, str], ...] = ()  # (daemon id, uid) whose duty is over
    sets: Mapping[str, SignedSet] = field(default_factory=dict)  # daemon id -> new signed set
    revs: Mapping[str, int] = field(default_factory=dict)
    confirmed_deletions: frozenset[str] | None = None
    events: tuple[Event, ...] = ()
    applied_revision: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """History for people. `count` collapses repeats of (subject, reason, message)."""

    at: float
    severity: str
    reason: str
    subject: str
    message: str
    daemon: str = ""
    revision: str = ""
    id: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """A joined daemon. `key_hash` makes enrolment idempotent; `serial` is its certificate's."""

    id: str
    name: str
    key_hash: str
    serial: str
    joined_at: float
    proposed_labels: Mapping[str, str] = field(default_factory=dict)
    revoked_at: float | None = None
    inventory: Inventory | None = None


@dataclass(frozen=True, slots=True)
class StoredReport:
    """The last full report of a daemon, folded; leases live in memory and are flushed in bulk."""

    daemon_id: str
    boot_id: str
    seq: int
    received_at: float
    received_hash: str
    applied_hash: str
    inventory_hash: str
    pipelines: tuple[PipelineStatus, ...] = ()
    tombstones_done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Single use, stored hashed. `name` and `labels` bind what may join with it."""

    token_hash: str
    created_at: float
    expires_at: float
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    used_by_key: str = ""
    used_at: float | None = None


class Store(Protocol):
    """All methods raise OperationFailed MYC-STORE-... when the disk or database fails."""

    def store_id(self) -> str:
        """Return the id made with the store; a restored backup gets a new one."""

    def ledger(self) -> Ledger: ...  # noqa: D102
    def write_fleet(self, write: FleetWrite) -> int:
        """Apply the delta and return the new ledger version."""

    def signed_set(self, daemon_id: str) -> SignedSet | None: ...  # noqa: D102

    def add_daemon(self, record: DaemonRecord) -> None:
        """Raises: Conflict when the id, or the name of an unrevoked daemon, exists."""

    def update_daemon(self, record: DaemonRecord) -> None: ...  # noqa: D102
    def daemons(self) -> tuple[DaemonRecord, ...]: ...  # noqa: D102
    def save_reports(self, reports: Sequence[StoredReport]) -> None:
        """Store many in one transaction; lower (boot_id equal) seq never replaces higher."""

    def reports(self) -> tuple[StoredReport, ...]: ...  # noqa: D102

    def add_token(self, token: JoinToken) -> None: ...  # noqa: D102
    def tokens(self) -> tuple[JoinToken, ...]: ...  # noqa: D102
    def use_token(self, token_hash: str, *, key_hash: str, now: float) -> JoinToken | None:
        """Consume atomically. Returns the token when it is unexpired and unused or was used by
        the same key; None otherwise."""

    def add_events(self, events: Sequence[Event]) -> None:
        """Append, collapsing repeats into `count`; bounded to the newest 50,000."""

    def events(
        self, *, after_id: int = 0, limit: int = 200, subject: str = "", newest: bool = True
    ) -> tuple[Event, ...]:
        """Return events with an id above `after_id`, at most `limit`, newest or oldest first."""

    def get_value(self, key: str) -> Any:
        """Return a small JSON value (last good revision, quarantined revisions), or None."""

    def set_value(self, key: str, value: Any) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
