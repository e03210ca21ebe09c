"""What is known of the fleet: the ledger of duties given, and what daemons last reported."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from mycelial.schemas.desired import (
    DaemonName,
    DeletionPolicy,
    PipelineSpec,
    Revision,
    Uid,
    WorkflowName,
)
from mycelial.schemas.wire import Endpoint, Inventory, PipelineStatus, Tombstone


class Liveness(enum.StrEnum):
    """How fresh the last report of a daemon is."""

    NEVER_JOINED = "Never joined"
    ONLINE = "Online"
    LATE = "Late"  # two reports missed
    OFFLINE = "Offline"  # lease expired
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True)
class DaemonState:
    """A joined daemon. `labels` are the effective ones: proposed at joining, overlaid by git's.

    `pipelines` is the last full report by uid; it is old news when liveness is not ONLINE.
    """

    id: str
    name: DaemonName
    liveness: Liveness = Liveness.NEVER_JOINED
    labels: Mapping[str, str] = field(default_factory=dict)
    inventory: Inventory | None = None
    pipelines: Mapping[Uid, PipelineStatus] = field(default_factory=dict)
    received_hash: str = ""
    applied_hash: str = ""
    last_report: float = 0.0
    tombstones_done: frozenset[Uid] = frozenset()

    @property
    def capabilities(self) -> frozenset[str]:
        """What the daemon reported it can run; empty until its first inventory."""
        return frozenset(self.inventory.capabilities if self.inventory else ())

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The sources and destinations named in the daemon's own config."""
        return self.inventory.endpoints if self.inventory else ()


@dataclass(frozen=True, slots=True)
class Duty:
    """What one daemon has been told about one workflow: an assignment or a tombstone.

    `resolve_key` digests what `spec` was resolved from, so that an unchanged duty is recognised
    without resolving again. `since` is when the duty last changed (Unix seconds).
    """

    daemon_id: str
    uid: Uid
    name: WorkflowName
    generation: int
    epoch: int
    spec_hash: str = ""
    spec: PipelineSpec | None = None
    revision: Revision = ""
    tombstone: Tombstone | None = None
    resolve_key: str = ""
    memory_max_bytes: int | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class KnownWorkflow:
    """Identity kept for a uid, also after its deletion. `epoch` is the highest ever given.

    `on_delete` and its deadline are remembered because a deleted manifest cannot be asked. A
    higher `incarnation` in the project than the remembered one means `delete --forget`.
    """

    uid: Uid
    name: WorkflowName
    digest: str
    generation: int
    epoch: int
    deleted: bool = False
    on_delete: DeletionPolicy = DeletionPolicy.DRAIN
    drain_deadline_seconds: float = 60.0
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """Inventory before action (R11): everything the control plane has ever ordered and not seen
    ended. Persisted by `storage`; `version` rises with every write (R5)."""

    version: int = 0
    known: Mapping[Uid, KnownWorkflow] = field(default_factory=dict)
    duties: Mapping[tuple[str, Uid], Duty] = field(default_factory=dict)  # (daemon id, uid)
    revs: Mapping[str, int] = field(default_factory=dict)  # daemon id -> rev of its set
    confirmed_deletions: frozenset[str] = frozenset()  # "Workflow/x" the guard may let through

    def of_daemon(self, daemon_id: str) -> tuple[Duty, ...]:
        """Return the duties of one daemon, by name."""
        found = (duty for (owner, _), duty in self.duties.items() if owner == daemon_id)
        return tuple(sorted(found, key=lambda duty: (duty.name, duty.uid)))

    def after(self, delta: LedgerDelta) -> Ledger:
        """Return the ledger as it is once `delta` has been persisted."""
        duties = {**self.duties, **{(duty.daemon_id, duty.uid): duty for duty in delta.duties}}
        for pair in delta.ended:
            duties.pop(pair, None)
        confirmed = delta.confirmed_deletions
        return Ledger(
            version=self.version + 1,
            known={**self.known, **{known.uid: known for known in delta.known}},
            duties=duties,
            revs={**self.revs, **delta.revs},
            confirmed_deletions=self.confirmed_deletions if confirmed is None else confirmed,
        )


@dataclass(frozen=True, slots=True)
class LedgerDelta:
    """What one reconcile adds to the ledger, and the duties it has seen end.

    `confirmed_deletions` is None when it does not change. Persist it before acting (R11).
    """

    known: tuple[KnownWorkflow, ...] = ()
    duties: tuple[Duty, ...] = ()
    ended: tuple[tuple[str, Uid], ...] = ()  # (daemon id, uid)
    revs: Mapping[str, int] = field(default_factory=dict)
    confirmed_deletions: frozenset[str] | None = None

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to persist."""
        return self == LedgerDelta()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything observed, as one value: input of `reconcile` beside the desired state."""

    ledger: Ledger
    daemons: Mapping[str, DaemonState] = field(default_factory=dict)  # by daemon id
    store_id: str = ""  # goes into the assignment sets made from this fleet
