"""What the people's API answers with. Stdlib dataclasses, `schemas.codec` JSON.

The control plane makes them, the typed client reads them, CLI and web pages render them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mycelial.kernel.errors import Problem
from mycelial.schemas.plan import Plan
from mycelial.schemas.wire import Condition, Inventory, LivePlan, PipelineStatus


@dataclass(frozen=True, slots=True)
class PlacementView:
    """A workflow on one daemon: desired beside reported."""

    daemon: str
    daemon_id: str
    liveness: str
    generation: int
    spec_hash: str
    applied: bool
    healthy: bool | None
    reason: str = ""
    message: str = ""
    status: PipelineStatus | None = None
    delete_pending_since: float | None = None


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """One workflow. `applied` and `healthy` count daemons out of `placed`."""

    name: str
    uid: str
    generation: int
    revision: str
    file: str
    line: int
    labels: Mapping[str, str]
    source: str  # plugin name
    destination: str
    schedule: str
    placed: int
    applied: int
    healthy: int
    rows_per_second: float = 0.0
    rows_committed: int = 0
    lag_seconds: float | None = None
    conditions: tuple[Condition, ...] = ()
    placements: tuple[PlacementView, ...] = ()
    manifest: str = ""  # YAML text of the object, only when one workflow is asked for
    reason: str = ""
    message: str = ""
    problems: tuple[Problem, ...] = ()
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class DaemonView:
    """One daemon, joined or only named in git."""

    name: str
    id: str
    liveness: str
    last_report: float
    labels: Mapping[str, str]
    inventory: Inventory | None = None
    assigned: int = 0
    applied: int = 0
    desired_hash: str = ""
    applied_hash: str = ""
    pipelines: tuple[PipelineStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectView:
    """Any object by kind and name, as compiled from git."""

    kind: str
    name: str
    file: str
    line: int
    revision: str
    manifest: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatusView:
    """The fleet on one screen."""

    revision_seen: str
    revision_applied: str
    source: str
    source_error: Problem | None
    complete: bool
    workflows: int
    applied: int
    healthy: int
    daemons: Mapping[str, int]  # liveness -> count
    problems: tuple[Problem, ...] = ()
    held: tuple[str, ...] = ()
    store_id: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of history."""

    id: int
    at: float
    severity: str
    reason: str
    subject: str
    message: str
    daemon: str = ""
    revision: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class RevisionView:
    """One commit. `applied` tells what became of it: current, applied, invalid, quarantined."""

    revision: str
    author: str
    message: str
    committed_at: float
    paths: tuple[str, ...] = ()
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Files as they would be: path -> text. `prune` deletes objects of the named files that are
    gone from them. Empty files: plan the head of the tracked branch."""

    files: Mapping[str, str] = field(default_factory=dict)
    prune: bool = False
    live: bool = False
    delete: tuple[str, ...] = ()  # "Workflow/orders"
    forget: bool = False


@dataclass(frozen=True, slots=True)
class PlanReply:
    """`problems` non-empty with errors means there is no plan for the objects they name."""

    plan: Plan
    plan_hash: str
    problems: tuple[Problem, ...] = ()
    live: Mapping[str, LivePlan] = field(default_factory=dict)  # "orders@shop-01" -> plan
    live_unknown: tuple[str, ...] = ()  # "orders@shop-02: offline"
    diff: str = ""  # unified diff of the files that would be committed


@dataclass(frozen=True, slots=True)
class ApplyRequest:
    """Commit the request's edits. `plan_hash` refuses a stale plan; `confirmed` lists deletions
    ("Workflow/x") that the person has agreed to."""

    request: PlanRequest
    message: str = ""
    plan_hash: str = ""
    confirmed: tuple[str, ...] = ()
    branch: str = ""


@dataclass(frozen=True, slots=True)
class ApplyReply:
    """`revision` is the commit made, or the head when nothing changed."""

    revision: str
    plan: Plan
    committed: bool
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenReply:
    """Shown once. `token` goes into the join command."""

    token: str
    expires_at: float
    command: str


@dataclass(frozen=True, slots=True)
class LogsReply:
    """The end of a pipeline's log on one daemon, oldest first; each line is a JSON object."""

    daemon: str
    lines: tuple[Mapping[str, Any], ...] = ()
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What may join with the token: one name or any, with these labels, until then."""

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ttl_seconds: float = 86400.0


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Exactly one: undo the last change of a workflow, or everything after a revision's parent."""

    name: str = ""
    revision: str = ""
    plan_hash: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class StateChange:
    """Set a part's position on one daemon; the pipeline resumes from there."""

    daemon: str
    part: str
    position: str


@dataclass(frozen=True, slots=True)
class StateView:
    """Committed positions of a workflow on one daemon, as last reported."""

    daemon: str
    liveness: str
    positions: Mapping[str, str] = field(default_factory=dict)
    reported_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ActReply:
    """What each daemon answered to a run-time act: "shop-01" -> "done", or why not."""

    answers: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitReply:
    """`met` is false when the time was up; `reason` says what is still missing."""

    met: bool
    reason: str = ""
    change: int = 0


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """The principal behind the token."""

    name: str
    rights: tuple[str, ...] = ()
