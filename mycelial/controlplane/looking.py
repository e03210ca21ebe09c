"""What people are shown, made from one snapshot of desired and observed. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from mycelial.controlplane.http import NotFound
from mycelial.kernel.errors import Problem, UsageError
from mycelial.reconciler.conditions import Finding, Placed, Summary, summarise
from mycelial.reconciler.observed import DaemonState, Duty, Fleet, Ledger, Liveness
from mycelial.schemas.desired import DesiredState, DesiredWorkflow, Schedule, Uid
from mycelial.schemas.selectors import SelectorError, parse_selector, selects
from mycelial.schemas.views import (
    DaemonView,
    ObjectView,
    PlacementView,
    StateView,
    StatusView,
    WorkflowView,
)
from mycelial.schemas.wire import PipelineState, PipelineStatus, Truth

NOTHING = DesiredState(revision="", complete=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the control plane knows at one instant; replaced whole, never changed.

    `desired` is what is in force: the revision seen last, with the last good version of whatever
    it got wrong. `findings` are the planner's, by workflow uid.
    """

    desired: DesiredState = NOTHING
    fleet: Fleet = field(default_factory=lambda: Fleet(Ledger()))
    findings: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    objects: Sequence[ObjectView] = ()
    revision_seen: str = ""
    revision_applied: str = ""
    source: str = ""
    source_error: Problem | None = None
    problems: tuple[Problem, ...] = ()
    held: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)  # daemon id -> hash of its set
    at: float = 0.0

    def duties(self) -> Mapping[str, list[Duty]]:
        """Return duties by workflow uid."""
        found: defaultdict[str, list[Duty]] = defaultdict(list)
        for duty in self.fleet.ledger.duties.values():
            found[duty.uid].append(duty)
        return found


def status_view(snapshot: Snapshot, *, version: str, store_id: str) -> StatusView:
    """Sum the fleet up."""
    duties = snapshot.duties()
    sums = [_summary(snapshot, w, duties) for w in snapshot.desired.workflows.values()]
    counts = Counter(str(d.liveness) for d in snapshot.fleet.daemons.values())
    joined = {d.name for d in snapshot.fleet.daemons.values()}
    missing = sum(name not in joined for name in snapshot.desired.daemons)
    if missing:
        counts[str(Liveness.NEVER_JOINED)] += missing
    return StatusView(
        revision_seen=snapshot.revision_seen,
        revision_applied=snapshot.revision_applied,
        source=snapshot.source,
        source_error=snapshot.source_error,
        complete=snapshot.desired.complete,
        workflows=len(sums),
        applied=sum(0 < s.placed == s.applied for s in sums),
        healthy=sum(0 < s.placed == s.healthy for s in sums),
        daemons=dict(counts),
        problems=snapshot.problems,
        held=snapshot.held,
        store_id=store_id,
        version=version,
    )


def workflow_views(snapshot: Snapshot, selector: str = "") -> tuple[WorkflowView, ...]:
    """Return the workflows whose labels match, by name, then those still being deleted.

    Raises: UsageError MYC-API-006 for a selector that cannot be read.
    """
    check_selector(selector)
    duties = snapshot.duties()
    views = [
        _workflow_view(snapshot, workflow, duties)
        for name, workflow in sorted(snapshot.desired.workflows.items())
        if not selector or selects(selector, workflow.labels)
    ]
    if not selector:
        views += [_leaving_view(snapshot, found) for found in _leaving(snapshot, duties)]
    return tuple(views)


def workflow_view(snapshot: Snapshot, name: str) -> WorkflowView:
    """Return one workflow with its manifest and problems. Raises: NotFound MYC-API-020."""
    duties = snapshot.duties()
    workflow = snapshot.desired.workflows.get(name)
    if workflow is not None:
        return _workflow_view(snapshot, workflow, duties, whole=True)
    leaving = next((d for d in _leaving(snapshot, duties) if d[0].name == name), None)
    if leaving is None:
        raise not_found("Workflow", name, snapshot.desired.workflows)
    return _leaving_view(snapshot, leaving)


def daemon_views(snapshot: Snapshot, selector: str = "") -> tuple[DaemonView, ...]:
    """Return joined daemons and those only named in git, by name."""
    check_selector(selector)
    joined = {daemon.name: daemon for daemon in _by_age(snapshot.fleet.daemons.values())}
    named = {
        name: DaemonView(
            name=name, id="", liveness=Liveness.NEVER_JOINED, last_report=0.0, labels=found.labels
        )
        for name, found in snapshot.desired.daemons.items()
        if name not in joined
    }
    views = named | {name: _daemon_view(snapshot, daemon) for name, daemon in joined.items()}
    ordered = (views[name] for name in sorted(views))
    return tuple(view for view in ordered if not selector or selects(selector, view.labels))


def daemon_view(snapshot: Snapshot, name: str) -> DaemonView:
    """Return one daemon. Raises: NotFound MYC-API-020."""
    views = {view.name: view for view in daemon_views(snapshot)}
    if name not in views:
        raise not_found("Daemon", name, views)
    return views[name]


def object_views(snapshot: Snapshot, kind: str = "") -> tuple[ObjectView, ...]:
    """Return the objects of a kind, or all, by kind and name."""
    found = (o for o in snapshot.objects if not kind or o.kind.lower() == kind.lower())
    return tuple(sorted(found, key=lambda o: (o.kind, o.name)))


def object_view(snapshot: Snapshot, kind: str, name: str) -> ObjectView:
    """Return one object. Raises: NotFound MYC-API-020."""
    found = {o.name: o for o in object_views(snapshot, kind)}
    if name not in found:
        raise not_found(kind, name, found)
    return found[name]


def state_views(snapshot: Snapshot, name: str) -> tuple[StateView, ...]:
    """Return committed positions by daemon, as last reported."""
    view = workflow_view(snapshot, name)
    return tuple(
        StateView(
            daemon=placement.daemon,
            liveness=placement.liveness,
            positions=placement.status.positions if placement.status else {},
            reported_at=_last_report(snapshot, placement.daemon_id),
        )
        for placement in view.placements
    )


def check_selector(text: str) -> None:
    """Raises: UsageError MYC-API-006."""
    if not text:
        return
    try:
        parse_selector(text)
    except SelectorError as error:
        raise UsageError("MYC-API-006", str(error)) from error


def not_found(kind: str, name: str, known: Iterable[str]) -> NotFound:
    """Return the error for a name that does not exist, with the nearest that does."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return NotFound(
        "MYC-API-020",
        f"there is no {kind} {name!r}",
        fix=f"did you mean {near[0]!r}?" if near else f"list them: mycelial get {kind.lower()}",
    )


def schedule_text(schedule: Schedule) -> str:
    """Return a schedule as it is written in a manifest."""
    if schedule.kind == "every":
        return f"every {schedule.every_seconds:g}s"
    if schedule.kind == "cron":
        return f"cron {schedule.cron} {schedule.timezone}"
    return schedule.kind


def _summary(
    snapshot: Snapshot, workflow: DesiredWorkflow, duties: Mapping[str, list[Duty]]
) -> Summary:
    known = snapshot.fleet.ledger.known.get(workflow.uid)
    pairs = [(d, snapshot.fleet.daemons.get(d.daemon_id)) for d in duties.get(workflow.uid, ())]
    return summarise(
        sorted(pairs, key=lambda pair: pair[1].name if pair[1] else pair[0].daemon_id),
        now=snapshot.at,
        generation=known.generation if known else 0,
        findings=tuple(snapshot.findings.get(workflow.uid, ())),
    )


def _workflow_view(
    snapshot: Snapshot,
    workflow: DesiredWorkflow,
    duties: Mapping[str, list[Duty]],
    *,
    whole: bool = False,
) -> WorkflowView:
    total = _summary(snapshot, workflow, duties)
    known = snapshot.fleet.ledger.known.get(workflow.uid)
    subject = f"Workflow/{workflow.name}"
    statuses = [_status_of(placed) for placed in total.placements]
    lags = [s.lag_seconds for s in statuses if s is not None and s.lag_seconds is not None]
    problems = tuple(p for p in snapshot.problems if p.subject == subject)
    blocked = subject in snapshot.desired.blocked
    return WorkflowView(
        name=workflow.name,
        uid=workflow.uid,
        generation=known.generation if known else 0,
        revision=_revision_of(total, snapshot),
        file=workflow.location.file,
        line=workflow.location.line,
        labels=workflow.labels,
        source=workflow.template.source.plugin or workflow.template.source.endpoint,
        destination=workflow.template.destination.plugin or workflow.template.destination.endpoint,
        schedule=schedule_text(workflow.template.schedule),
        placed=total.placed,
        applied=total.applied,
        healthy=total.healthy,
        rows_per_second=sum(s.rows_per_second for s in statuses if s is not None),
        rows_committed=sum(s.counters.rows_committed for s in statuses if s is not None),
        lag_seconds=max(lags) if lags else None,
        conditions=total.conditions,
        placements=tuple(_placement_view(placed) for placed in total.placements),
        manifest=_manifest(snapshot, workflow.name) if whole else "",
        reason="InvalidManifest" if blocked else total.reason,
        message="its newest version is invalid; the last good one stays"
        if blocked
        else total.message,
        problems=problems,
        since=min((s.since for s in statuses if s is not None and s.since), default=0.0),
    )


def _leaving(snapshot: Snapshot, duties: Mapping[str, list[Duty]]) -> list[list[Duty]]:
    present = {workflow.uid for workflow in snapshot.desired.workflows.values()}
    gone = [found for uid, found in duties.items() if uid not in present]
    return sorted(gone, key=lambda found: found[0].name)


def _leaving_view(snapshot: Snapshot, duties: list[Duty]) -> WorkflowView:
    first = duties[0]
    pairs = [(duty, snapshot.fleet.daemons.get(duty.daemon_id)) for duty in duties]
    total = summarise(pairs, now=snapshot.at, generation=first.generation)
    held = next((text for text in snapshot.held if text.startswith(f"Workflow/{first.name}")), "")
    return WorkflowView(
        name=first.name,
        uid=first.uid,
        generation=first.generation,
        revision=first.revision,
        file="",
        line=0,
        labels={},
        source=first.spec.source.plugin if first.spec else "",
        destination=first.spec.destination.plugin if first.spec else "",
        schedule=schedule_text(first.spec.schedule) if first.spec else "",
        placed=total.placed,
        applied=total.applied,
        healthy=total.healthy,
        conditions=total.conditions,
        placements=tuple(_placement_view(placed) for placed in total.placements),
        reason="DeletionHeld" if held else "DeletePending",
        message=held or total.message,
    )


def _placement_view(placed: Placed) -> PlacementView:
    duty, daemon = placed.duty, placed.daemon
    bad = placed.applied if placed.applied.status is not Truth.TRUE else placed.healthy
    well = bad.status is Truth.TRUE
    healthy = {Truth.TRUE: True, Truth.FALSE: False, Truth.UNKNOWN: None}[placed.healthy.status]
    return PlacementView(
        daemon=daemon.name if daemon else duty.daemon_id,
        daemon_id=duty.daemon_id,
        liveness=daemon.liveness if daemon else Liveness.NEVER_JOINED,
        generation=duty.generation,
        spec_hash=duty.spec_hash,
        applied=placed.applied.status is Truth.TRUE,
        healthy=healthy,
        reason=placed.healthy.reason if well else bad.reason,
        message="" if well else bad.message,
        status=_status_of(placed),
        delete_pending_since=placed.applied.last_transition if duty.tombstone else None,
    )


def _status_of(placed: Placed) -> PipelineStatus | None:
    return placed.daemon.pipelines.get(placed.duty.uid) if placed.daemon else None


def _revision_of(total: Summary, snapshot: Snapshot) -> str:
    revisions = {p.duty.revision for p in total.placements if p.duty.revision}
    return revisions.pop() if len(revisions) == 1 else snapshot.desired.revision


def _daemon_view(snapshot: Snapshot, daemon: DaemonState) -> DaemonView:
    duties = snapshot.fleet.ledger.of_daemon(daemon.id)
    assigned = [duty for duty in duties if duty.tombstone is None]
    applied = 0
    for duty in assigned:
        status = daemon.pipelines.get(duty.uid)
        applied += (
            status is not None
            and status.observed_generation == duty.generation
            and status.spec_hash == duty.spec_hash
        )
    return DaemonView(
        name=daemon.name,
        id=daemon.id,
        liveness=daemon.liveness,
        last_report=daemon.last_report,
        labels=daemon.labels,
        inventory=daemon.inventory,
        assigned=len(assigned),
        applied=applied,
        desired_hash=snapshot.hashes.get(daemon.id, ""),
        applied_hash=daemon.applied_hash,
        pipelines=_shown(daemon, {duty.uid for duty in duties}),
    )


def _shown(daemon: DaemonState, wanted: Set[Uid]) -> tuple[PipelineStatus, ...]:
    """Return what runs, and what is to run; not what has ended and nobody asks for any more."""
    shown = (
        status
        for status in daemon.pipelines.values()
        if status.uid in wanted or status.state is not PipelineState.STOPPED
    )
    return tuple(sorted(shown, key=lambda status: status.name))


def _by_age(daemons: Iterable[DaemonState]) -> list[DaemonState]:
    """Order so that, of two daemons with one name, the one that is not revoked comes last."""
    return sorted(daemons, key=lambda d: (d.liveness is not Liveness.REVOKED, d.id))


def _manifest(snapshot: Snapshot, name: str) -> str:
    found = (o.manifest for o in snapshot.objects if o.kind == "Workflow" and o.name == name)
    return next(found, "")


def _last_report(snapshot: Snapshot, daemon_id: str) -> float:
    daemon = snapshot.fleet.daemons.get(daemon_id)
    return daemon.last_report if daemon else 0.0
