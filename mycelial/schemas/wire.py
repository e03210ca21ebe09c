"""What crosses between control plane and daemons. Stdlib dataclasses, `schemas.codec` JSON.

State is exchanged as full snapshots with a digest (R1); readers ignore unknown fields. All
durations are seconds, all instants Unix seconds, all hashes `sha256:<hex>`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Problem
from mycelial.schemas.codec import encode
from mycelial.schemas.desired import (
    DaemonName,
    DeletionPolicy,
    PipelineSpec,
    Revision,
    Uid,
    WorkflowName,
)

PROTOCOL = 1


class Truth(enum.StrEnum):
    """The status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about an object. `type` is Applied, Healthy, Stalled or Verified."""

    type: str
    status: Truth
    reason: str
    message: str = ""
    last_transition: float = 0.0
    observed_generation: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Fence:
    """Compared inside the destination's own commit; a lower one is refused (R12, I4).

    `epoch` comes with the assignment, `attempt` is raised by the daemon before each worker start.
    """

    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """The duty of one daemon for one workflow. `spec_hash` is `spec_hash_of(spec)`."""

    uid: Uid
    name: WorkflowName
    generation: int
    epoch: int
    spec_hash: str
    spec: PipelineSpec
    revision: Revision = ""
    memory_max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An explicit order to end a pipeline; absence alone never ends one (R2)."""

    uid: Uid
    name: WorkflowName
    generation: int
    epoch: int
    policy: DeletionPolicy = DeletionPolicy.DRAIN
    deadline_seconds: float = 60.0
    forget: bool = False  # checkpoints and local state go too (`delete --forget`)


@dataclass(frozen=True, slots=True)
class AssignmentSet:
    """The whole set for one daemon: it replaces, never patches.

    `rev` rises by one with every change of this daemon's set, within `store_id`.
    """

    daemon_id: str
    store_id: str
    rev: int
    assignments: tuple[Assignment, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def bundle_hash(self) -> str:
        """Return the digest over what makes two sets the same duty; independent of `rev`."""
        return digest(
            {
                "a": sorted([a.uid, a.generation, a.spec_hash, a.epoch] for a in self.assignments),
                "t": sorted([t.uid, t.generation, t.epoch, str(t.policy)] for t in self.tombstones),
            }
        )


@dataclass(frozen=True, slots=True)
class SignedSet:
    """`payload` is the canonical JSON text of an AssignmentSet; `signature` is base64 Ed25519."""

    payload: str
    signature: str
    key_id: str


def spec_hash_of(spec: PipelineSpec) -> str:
    """Return the digest of a resolved spec: what Applied compares."""
    return digest(encode(spec))


class PipelineState(enum.StrEnum):
    """What a pipeline is doing, as its daemon sees it."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # for its schedule
    RETRYING = "retrying"  # after a transient failure, until `retry_at`
    DRAINING = "draining"
    STOPPED = "stopped"
    FINISHED = "finished"  # a `once` run is complete
    FAILED = "failed"  # permanent: waits for a change of spec, or for `retry`


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the pipeline was first started on this daemon, kept over restarts of the worker."""

    rows_read: int = 0
    rows_committed: int = 0
    bytes_committed: int = 0
    units_committed: int = 0
    rows_rejected: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """One pipeline as reported. `spec_hash` is what runs now, not what was asked for."""

    uid: Uid
    name: WorkflowName
    generation: int
    observed_generation: int
    epoch: int
    attempt: int
    spec_hash: str
    state: PipelineState
    conditions: tuple[Condition, ...] = ()
    counters: Counters = field(default_factory=Counters)
    positions: Mapping[str, str] = field(default_factory=dict)  # part -> committed position
    rows_per_second: float = 0.0
    lag_seconds: float | None = None
    guarantee: str = ""  # "exactly-once" | "at-least-once", once planned
    retry_at: float | None = None
    error: Problem | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A source or destination named in a daemon's config.toml. No secret values."""

    name: str
    role: Literal["source", "destination"]
    connector: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a daemon is and can do; sent when its hash changes or when asked."""

    version: str
    platform: str
    capabilities: tuple[str, ...] = ()  # "connector/sqlite", "transform/sql", ...
    endpoints: tuple[Endpoint, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # proposed; git's labels win
    policy_digest: str = ""
    plugin_versions: Mapping[str, str] = field(default_factory=dict)

    def hash(self) -> str:
        """Return the digest that tells whether the inventory has to be sent."""
        return digest(encode(self))


@dataclass(frozen=True, slots=True)
class FailedSet:
    """The set that a daemon refused, and why."""

    bundle_hash: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """Heartbeat and status in one. Idempotent by (`boot_id`, `seq`).

    `pipelines` is None when unchanged since the last acknowledged report; otherwise it is whole.
    """

    boot_id: str
    seq: int
    store_id: str
    rev: int
    received_hash: str
    applied_hash: str
    inventory_hash: str
    wall_time: float
    pipelines: tuple[PipelineStatus, ...] | None = None
    tombstones_done: tuple[Uid, ...] = ()
    inventory: Inventory | None = None
    last_failed: FailedSet | None = None
    load: Mapping[str, float] = field(default_factory=dict)


class ReplyFlag(enum.StrEnum):
    """What the server wants in the next report."""

    REPORT_FULL = "REPORT_FULL"
    INVENTORY = "INVENTORY"
    ROTATE_CERT = "ROTATE_CERT"


@dataclass(frozen=True, slots=True)
class ReportReply:
    """`desired_hash` differing from `received_hash` makes the daemon ask for a snapshot."""

    ack_seq: int
    desired_hash: str
    next_report_seconds: float
    lease_seconds: float
    reconnect_window_seconds: float
    server_time: float
    flags: tuple[ReplyFlag, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A run-time act for one daemon: probe, logs, state-set, retry. Expires; answered once."""

    id: str
    kind: Literal["probe", "logs", "state-set", "retry", "sync"]
    expires_at: float
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The daemon's answer to a Command."""

    id: str
    ok: bool
    value: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One NDJSON line of a watch stream, server to daemon.

    hello: store_id, rev. snapshot: `signed` (the whole set; also sent for every change, since a
    set replaces). ping: nothing. command: `command`. bye: reconnect after `retry_after_seconds`.
    """

    type: Literal["hello", "snapshot", "ping", "command", "bye"]
    store_id: str = ""
    rev: int = 0
    bundle_hash: str = ""
    signed: SignedSet | None = None
    command: Command | None = None
    retry_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """`csr` is PEM; the server rewrites its subject. Idempotent by the key's hash."""

    token: str
    name: DaemonName
    csr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnrollReply:
    """`certificate` carries `urn:mycelial:daemon:<daemon_id>` as URI SAN; all PEM."""

    daemon_id: str
    name: DaemonName
    certificate: str
    ca_bundle: str
    signing_keys: Mapping[str, str]  # key_id -> base64 raw Ed25519 public key
    endpoints: tuple[str, ...] = ()


def uids(items: Iterable[Assignment | Tombstone | PipelineStatus]) -> frozenset[Uid]:
    """Return the uids of a collection."""
    return frozenset(item.uid for item in items)


@dataclass(frozen=True, slots=True)
class LivePlanColumn:
    """One column as it will arrive: Arrow type at the source's end, native type at the far end."""

    name: str
    type: str
    nullable: bool
    destination_type: str = ""


@dataclass(frozen=True, slots=True)
class LivePlan:
    """What only the daemon can see: made by a `probe` in a worker, also before the first commit."""

    uid: Uid
    spec_hash: str
    guarantee: str
    guarantee_reason: str
    mode: str
    target: str
    columns: tuple[LivePlanColumn, ...] = ()
    ddl: tuple[str, ...] = ()
    lossy: tuple[str, ...] = ()
    rows_estimate: int | None = None
    incremental: bool = False
    notes: tuple[str, ...] = ()
    made_at: float = 0.0
    problem: Problem | None = None
