"""Reconcile the fleet: desired x observed x now -> what to persist, send, show and when to look
again.

Pure. Preview and apply call the same function; applying `write` and planning again on the same
observations gives an empty plan.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mycelial.reconciler import conditions
from mycelial.reconciler.conditions import Finding
from mycelial.reconciler.duties import Decision, Duties, Round, Step, delete_workflow
from mycelial.reconciler.guard import Deletions, judge_deletions, object_id
from mycelial.reconciler.observed import (
    DaemonState,
    Duty,
    Fleet,
    KnownWorkflow,
    Ledger,
    LedgerDelta,
    Liveness,
)
from mycelial.reconciler.placement import Resolve
from mycelial.schemas.desired import DesiredState, Uid
from mycelial.schemas.plan import Change, Effect, Plan
from mycelial.schemas.wire import Assignment, AssignmentSet, Tombstone

AWAITING_SECONDS = 30.0  # a report wakes the reconciler sooner; this bounds a lost wake-up


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """One reconcile. Persist `write` before any of `sets` leaves the process (R11).

    `sets` has the daemons whose duties changed. `conditions` holds, per workflow uid, why
    something git asks for is not (yet) so; a workflow without an entry is placed as asked.
    """

    plan: Plan
    write: LedgerDelta = field(default_factory=LedgerDelta)
    sets: Mapping[str, AssignmentSet] = field(default_factory=dict)
    conditions: Mapping[Uid, tuple[Finding, ...]] = field(default_factory=dict)
    requeue_after: float | None = None


def plan_fleet(desired: DesiredState, fleet: Fleet, now: float, resolve: Resolve) -> FleetOutcome:
    """Decide what every daemon is told next.

    Nothing is deleted that the revision could not be read for (I8), that is blocked, or that the
    delete guard holds. A daemon that is away keeps its duties; its tombstones wait for it (R8).
    """
    ground = Round.of(desired, fleet, now, resolve)
    gathered = _Gathered()
    held = _index(fleet.ledger.duties.values())
    for duty in ended_duties(fleet):
        gathered.end(duty.daemon_id, duty.uid)
        held[duty.uid] = {i: d for i, d in held[duty.uid].items() if i != duty.daemon_id}
    for workflow in desired.workflows.values():
        decision = Step(workflow, held.get(workflow.uid, {}), ground).decide()
        gathered.add(workflow.uid, decision)
    deletions = judge_deletions(desired, fleet.ledger)
    for known in deletions.allowed:
        decision = delete_workflow(known, held.get(known.uid, {}).values(), ground)
        gathered.add(known.uid, decision)
    _explain_held(gathered, deletions, fleet.ledger)
    _explain_blocked(gathered, desired, fleet.ledger)
    return _outcome(gathered, deletions, ground, held)


def ended_duties(fleet: Fleet) -> tuple[Duty, ...]:
    """Return the tombstones that are over: confirmed by the daemon, or by its revocation.

    A confirmation counts only from a daemon that has the very set that holds the tombstone;
    otherwise a late report about an earlier life of the uid would end this one unseen (R11).
    """
    waiting: dict[str, list[Duty]] = defaultdict(list)
    for duty in fleet.ledger.duties.values():
        if duty.tombstone is not None:
            waiting[duty.daemon_id].append(duty)
    ended: list[Duty] = []
    confirming = set()
    for daemon_id, duties in waiting.items():
        daemon = fleet.daemons.get(daemon_id)
        if daemon is None:
            continue
        if daemon.liveness is Liveness.REVOKED:
            ended += duties
        elif any(duty.uid in daemon.tombstones_done for duty in duties):
            confirming.add(daemon_id)
    current = assignment_sets(fleet.ledger, confirming, fleet)
    for daemon_id in confirming:
        daemon = fleet.daemons[daemon_id]
        if daemon.received_hash == current[daemon_id].bundle_hash():
            ended += (d for d in waiting[daemon_id] if d.uid in daemon.tombstones_done)
    return tuple(ended)


def assignment_sets(
    ledger: Ledger, daemon_ids: Collection[str], fleet: Fleet
) -> dict[str, AssignmentSet]:
    """Return the whole sets of some daemons as the ledger has them."""
    of: dict[str, list[Duty]] = {daemon_id: [] for daemon_id in daemon_ids}
    if of:
        for duty in ledger.duties.values():
            if duty.daemon_id in of:
                of[duty.daemon_id].append(duty)
    return {
        daemon_id: _assignment_set(
            daemon_id, duties, ledger.revs.get(daemon_id, 0), fleet.store_id,
            fleet.daemons.get(daemon_id),
        )
        for daemon_id, duties in of.items()
    }  # fmt: skip


def _assignment_set(
    daemon_id: str, duties: list[Duty], rev: int, store_id: str, daemon: DaemonState | None
) -> AssignmentSet:
    duties.sort(key=lambda duty: (duty.name, duty.uid))
    return AssignmentSet(
        daemon_id=daemon_id,
        store_id=store_id,
        rev=rev,
        assignments=tuple(_assignment(duty) for duty in duties if duty.spec is not None),
        tombstones=tuple(_tombstones(duties)),
        labels=dict(daemon.labels) if daemon else {},
    )


def _assignment(duty: Duty) -> Assignment:
    assert duty.spec is not None
    return Assignment(
        uid=duty.uid,
        name=duty.name,
        generation=duty.generation,
        epoch=duty.epoch,
        spec_hash=duty.spec_hash,
        spec=duty.spec,
        revision=duty.revision,
        memory_max_bytes=duty.memory_max_bytes,
    )


def _tombstones(duties: Iterable[Duty]) -> Iterable[Tombstone]:
    return (duty.tombstone for duty in duties if duty.tombstone is not None)


def ledger_digest(ledger: Ledger) -> str:
    """Return the digest of what a plan is made from: who has been told what."""
    lines = [
        f"k {k.uid} {k.name} {k.digest} {k.generation} {k.epoch} {k.deleted:d}"
        for k in ledger.known.values()
    ]
    lines += (
        f"d {d.daemon_id} {d.uid} {d.generation} {d.epoch} {d.spec_hash} {d.tombstone is not None}"
        for d in ledger.duties.values()
    )
    lines.sort()
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


class _Gathered:
    """The decisions of one round, added up."""

    def __init__(self) -> None:
        self.known: list[KnownWorkflow] = []
        self.duties: list[Duty] = []
        self.quiet: list[Duty] = []
        self.ended: list[tuple[str, Uid]] = []
        self.touched: set[str] = set()
        self.changes: list[Change] = []
        self.findings: dict[Uid, tuple[Finding, ...]] = {}
        self.unchanged = 0
        self.is_awaiting = False

    def end(self, daemon_id: str, uid: Uid) -> None:
        self.ended.append((daemon_id, uid))
        self.touched.add(daemon_id)

    def find(self, uid: Uid, *findings: Finding) -> None:
        self.findings[uid] = self.findings.get(uid, ()) + findings

    def add(self, uid: Uid, decision: Decision) -> None:
        if decision.known is not None:
            self.known.append(decision.known)
        self.duties += decision.duties
        self.quiet += decision.quiet
        self.touched.update(duty.daemon_id for duty in decision.duties)
        for daemon_id in decision.ended:
            self.end(daemon_id, uid)
        self.changes += decision.changes
        self.unchanged += not decision.changes
        self.is_awaiting = self.is_awaiting or decision.is_awaiting
        if decision.findings:
            self.find(uid, *decision.findings)


def _index(duties: Iterable[Duty]) -> dict[Uid, Duties]:
    found: dict[Uid, dict[str, Duty]] = defaultdict(dict)
    for duty in duties:
        found[duty.uid][duty.daemon_id] = duty
    return dict(found)


def _explain_held(gathered: _Gathered, deletions: Deletions, ledger: Ledger) -> None:
    for uid, reason in deletions.held.items():
        name = ledger.known[uid].name
        gathered.changes.append(Change("Workflow", name, uid, Effect.DELETE, held=reason))
        gathered.find(uid, Finding(conditions.DELETION_HELD, reason))


def _explain_blocked(gathered: _Gathered, desired: DesiredState, ledger: Ledger) -> None:
    if not desired.blocked:
        return
    for known in ledger.known.values():
        if object_id(known) in desired.blocked and not known.deleted:
            text = "its manifest is invalid at this revision; the last good version stays"
            gathered.find(known.uid, Finding(conditions.INVALID_MANIFEST, text))


def _explain_pending(
    gathered: _Gathered, ground: Round, held: Mapping[Uid, Duties], entombed: Iterable[Duty]
) -> None:
    over = set(gathered.ended)
    now_assigned = {(d.daemon_id, d.uid) for d in gathered.duties if d.tombstone is None}
    old = (duty for duties in held.values() for duty in duties.values())
    pending = {
        (duty.daemon_id, duty.uid)
        for duty in (*(d for d in old if d.tombstone is not None), *entombed)
    }
    for daemon_id, uid in sorted(pending - over - now_assigned):
        liveness = ground.liveness_of(daemon_id)
        text = f"waits for {ground.name_of(daemon_id)} to stop it"
        if liveness is not None and liveness is not Liveness.ONLINE:
            text += f"; the daemon is {liveness.lower()}"
        gathered.find(uid, Finding(conditions.DELETE_PENDING, text, daemon_id))
        gathered.is_awaiting = True


def _outcome(
    gathered: _Gathered, deletions: Deletions, ground: Round, held: Mapping[Uid, Duties]
) -> FleetOutcome:
    fleet = ground.fleet
    entombed = [duty for duty in gathered.duties if duty.tombstone is not None]
    _explain_pending(gathered, ground, held, entombed)
    touched = {i for i in gathered.touched if ground.liveness_of(i) is not Liveness.REVOKED}
    write = LedgerDelta(
        known=tuple(gathered.known),
        duties=(*gathered.duties, *gathered.quiet),
        ended=_really_ended(gathered),
        revs={i: fleet.ledger.revs.get(i, 0) + 1 for i in sorted(touched)},
        confirmed_deletions=_confirmations_left(fleet.ledger, deletions),
    )
    changes = sorted(
        gathered.changes,
        key=lambda c: (c.effect is Effect.DELETE, c.kind, c.name, c.uid, c.effect, c.daemons),
    )
    return FleetOutcome(
        plan=Plan(
            revision=ground.desired.revision,
            base=ledger_digest(fleet.ledger),
            changes=tuple(changes),
            unchanged=gathered.unchanged,
        ),
        write=write,
        sets=assignment_sets(fleet.ledger.after(write), touched, fleet) if touched else {},
        conditions=gathered.findings,
        requeue_after=AWAITING_SECONDS if gathered.is_awaiting else None,
    )


def _really_ended(gathered: _Gathered) -> tuple[tuple[str, Uid], ...]:
    """Leave out a pair whose tombstone ended in the same round that assigns it anew."""
    again = {(duty.daemon_id, duty.uid) for duty in gathered.duties}
    return tuple(sorted({pair for pair in gathered.ended if pair not in again}))


def _confirmations_left(ledger: Ledger, deletions: Deletions) -> frozenset[str] | None:
    """Use a confirmation up with its deletion; None when nothing changes."""
    used = {object_id(known) for known in deletions.allowed} & ledger.confirmed_deletions
    return ledger.confirmed_deletions - used if used else None
