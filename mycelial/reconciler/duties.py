"""Decide, for one workflow, what each daemon is told next.

Pure. In: the compiled workflow, the duties given so far, the roster. Out: a Decision: new duties,
ended ones, and the changes that a plan shows for them.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import MycelialError, Problem
from mycelial.reconciler import conditions
from mycelial.reconciler.conditions import Finding
from mycelial.reconciler.diff import Verdict, classify, diff_specs
from mycelial.reconciler.observed import Duty, Fleet, KnownWorkflow, Liveness
from mycelial.reconciler.placement import (
    BAD_SELECTOR,
    LACKS_CAPABILITY,
    NEVER_JOINED,
    PlacementResult,
    Resolve,
    Roster,
    place,
)
from mycelial.schemas.desired import (
    DeletionPolicy,
    DesiredState,
    DesiredWorkflow,
    PipelineSpec,
    PlacementMode,
)
from mycelial.schemas.plan import Change, Effect, FieldChange
from mycelial.schemas.selectors import SelectorError
from mycelial.schemas.wire import Tombstone, spec_hash_of

_REACHABLE = frozenset({Liveness.ONLINE, Liveness.LATE})
Duties = Mapping[str, Duty]  # of one workflow, by daemon id


@dataclass(frozen=True, slots=True)
class Round:
    """What is the same for every workflow of one reconcile."""

    desired: DesiredState
    fleet: Fleet
    roster: Roster
    resolve: Resolve
    now: float
    variables_digest: str
    memory_max: Mapping[str, int | None]  # daemon id -> the limit git sets

    @classmethod
    def of(cls, desired: DesiredState, fleet: Fleet, now: float, resolve: Resolve) -> Round:
        """Gather it."""
        roster = Roster(fleet.daemons.values())
        limits = {
            daemon.id: desired.daemons[daemon.name].memory_max_bytes
            for daemon in roster.placeable.values()
            if daemon.name in desired.daemons
        }
        variables = digest(dict(desired.project.variables))
        return cls(desired, fleet, roster, resolve, now, variables, limits)

    def resolve_key(self, workflow: DesiredWorkflow, daemon_id: str) -> str:
        """Digest everything that the workflow's spec on this daemon is made from, but its name."""
        text = (
            f"{workflow.digest}\0{workflow.uid}\0{workflow.placement.mode}\0"
            f"{self.roster.context(daemon_id)}\0{self.variables_digest}"
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def memory_limit(self, daemon_id: str, current: Duty | None) -> int | None:
        """Return the daemon's limit; the known one while its object cannot be read (I8)."""
        if daemon_id not in self.memory_max and not self.desired.complete and current is not None:
            return current.memory_max_bytes
        return self.memory_max.get(daemon_id)

    def name_of(self, daemon_id: str) -> str:
        """Return the daemon's name, for people."""
        daemon = self.roster.by_id.get(daemon_id)
        return daemon.name if daemon else daemon_id

    def liveness_of(self, daemon_id: str) -> Liveness | None:
        """Return the liveness of a daemon, None for one that the fleet does not know."""
        daemon = self.roster.by_id.get(daemon_id)
        return daemon.liveness if daemon else None


@dataclass(slots=True)
class Decision:
    """What becomes of one workflow. `quiet` duties differ in nothing that a daemon is told."""

    known: KnownWorkflow | None = None
    duties: list[Duty] = field(default_factory=list)
    quiet: list[Duty] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # daemon ids
    findings: list[Finding] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    is_awaiting: bool = False


class _Fate(enum.Enum):
    """What becomes of an assignment on a daemon that placement did not choose."""

    KEEP = enum.auto()
    ENTOMB = enum.auto()
    END = enum.auto()


def identity_after(workflow: DesiredWorkflow, known: KnownWorkflow | None) -> KnownWorkflow:
    """Return what is to be remembered of the workflow; `generation` rises with the digest (R7)."""
    if known is None:
        generation = 1
    else:
        generation = known.generation + (known.digest != workflow.digest or known.deleted)
    return KnownWorkflow(
        uid=workflow.uid,
        name=workflow.name,
        digest=workflow.digest,
        generation=generation,
        epoch=known.epoch if known else 0,
        on_delete=workflow.on_delete,
        drain_deadline_seconds=workflow.drain_deadline_seconds,
        incarnation=known.incarnation if known and not known.deleted else 0,
    )


class Step:
    """The decision about one desired workflow, made in order: place, leave, assign, explain."""

    def __init__(self, workflow: DesiredWorkflow, held: Duties, ground: Round) -> None:
        self.workflow = workflow
        self.held = held
        self.ground = ground
        self.before = ground.fleet.ledger.known.get(workflow.uid)
        incarnation = ground.desired.project.incarnations.get(f"Workflow/{workflow.name}", 0)
        self.identity = replace(identity_after(workflow, self.before), incarnation=incarnation)
        # One number for everything this round hands over: higher than any given before (R12).
        self.next_epoch = self.identity.epoch + 1
        self.assigned = {i: duty for i, duty in held.items() if duty.tombstone is None}
        self.placed = place(workflow, ground.roster, holders=self.assigned)
        self.out = Decision()
        self._groups: dict[tuple[Effect, str, str], tuple[list[str], tuple[FieldChange, ...]]] = {}
        self._entombed: list[str] = []

    def decide(self) -> Decision:
        """Return the decision; `known` is set only when it changes."""
        blockers = self._leave()
        for daemon_id in self.placed.chosen:
            self._assign(daemon_id, blockers)
        if self._raises_epoch():
            self.identity = replace(self.identity, epoch=self.next_epoch)
        if self.identity != self.before:
            self.out.known = self.identity
        self._explain(blockers)
        return self.out

    def _raises_epoch(self) -> bool:
        return any(duty.epoch == self.next_epoch for duty in self.out.duties)

    # -- daemons that shall no longer run it -----------------------------------------------------

    def _leave(self) -> list[str]:
        """Deal with daemons that placement did not choose; return those still in the way."""
        blockers = []
        for daemon_id, duty in self.held.items():
            if daemon_id in self.placed.chosen:
                continue
            if duty.tombstone is not None:
                if self.ground.liveness_of(daemon_id) in _REACHABLE:
                    blockers.append(daemon_id)
                continue
            fate, finding = self._fate(daemon_id)
            if finding is not None:
                self.out.findings.append(finding)
            match fate:
                case _Fate.KEEP:
                    if self.ground.liveness_of(daemon_id) is not None:
                        blockers.append(daemon_id)
                case _Fate.END:
                    self.out.ended.append(daemon_id)
                case _Fate.ENTOMB:
                    self._entomb(duty)
                    if self.ground.liveness_of(daemon_id) in _REACHABLE:
                        blockers.append(daemon_id)
                case _:
                    assert_never(fate)
        return blockers

    def _fate(self, daemon_id: str) -> tuple[_Fate, Finding | None]:
        placed, liveness = self.placed, self.ground.liveness_of(daemon_id)
        mode = self.workflow.placement.mode
        if liveness is Liveness.REVOKED:
            return _Fate.END, None  # it can never confirm; the raised epoch fences what it may do
        if liveness is None:
            return _Fate.KEEP, None
        lacking = (placed.lacking or {}).get(daemon_id)
        if lacking and not (mode is PlacementMode.ONE and placed.chosen):
            # What a daemon can do is only reported; a duty is not taken away for a report (R2).
            text = f"{self.ground.name_of(daemon_id)} no longer has {', '.join(lacking)}"
            return _Fate.KEEP, Finding(LACKS_CAPABILITY, text, daemon_id)
        if placed.reason in (NEVER_JOINED, BAD_SELECTOR):
            text = f"goes on here until it can be placed: {placed.message}"
            return _Fate.KEEP, Finding(conditions.DEPARTURE_HELD, text, daemon_id)
        if mode is not PlacementMode.NAMED and not self.ground.desired.complete:
            # Labels come from manifests, too: those of a file that was not read are not gone (I8).
            text = "the revision was not read completely, so no daemon loses its duty by labels"
            return _Fate.KEEP, Finding(conditions.DEPARTURE_HELD, text, daemon_id)
        return _Fate.ENTOMB, None

    def _entomb(self, duty: Duty) -> None:
        # Orphaning is for deleted workflows; leaving the pipeline behind here would run it twice.
        policy = self.workflow.on_delete
        policy = DeletionPolicy.DRAIN if policy is DeletionPolicy.ORPHAN else policy
        self.out.duties.append(
            entomb(duty, self.identity, epoch=self.next_epoch, now=self.ground.now, policy=policy)
        )
        self._entombed.append(duty.daemon_id)
        if self.workflow.placement.mode is PlacementMode.EVERY or not self.placed.chosen:
            self._note(duty.daemon_id, Verdict(Effect.DELETE, "no longer placed on this daemon"))

    # -- daemons that shall run it ---------------------------------------------------------------

    def _assign(self, daemon_id: str, blockers: list[str]) -> None:
        current = self.assigned.get(daemon_id)
        key = self.ground.resolve_key(self.workflow, daemon_id)
        limit = self.ground.memory_limit(daemon_id, current)
        if current is not None and self._is_unchanged(current, key, limit):
            return
        shares = self.workflow.placement.mode is not PlacementMode.EVERY  # one scope, one holder
        if current is None and blockers and shares:
            self._await(daemon_id, blockers)
            return
        spec = self._spec(daemon_id, current, key)
        if spec is None:
            return
        takes_scope = current is None or current.spec is None or current.spec.scope != spec.scope
        holders = [i for i in blockers if shares and self._may_hold(i, spec.scope)]
        if takes_scope and holders:
            self._await(daemon_id, holders)
            return
        duty = Duty(
            daemon_id=daemon_id,
            uid=self.workflow.uid,
            name=self.workflow.name,
            generation=self.identity.generation,
            # A scope that is new here may be known elsewhere under the old number (R12).
            epoch=self.next_epoch if current is None or takes_scope else current.epoch,
            spec_hash=_hash(spec, current),
            spec=spec,
            revision=self.ground.desired.revision,
            resolve_key=key,
            memory_max_bytes=limit,
            since=self.ground.now,
        )
        if current is not None and _same_for_daemon(current, duty):
            self.out.quiet.append(replace(current, resolve_key=key))
            return
        self.out.duties.append(duty)
        self._note_assigned(daemon_id, current, duty)

    def _may_hold(self, daemon_id: str, scope: str) -> bool:
        """Tell whether a worker there may write to `scope`; a tombstone no longer says which."""
        spec = self.held[daemon_id].spec
        return spec is None or spec.scope == scope

    def _is_unchanged(self, current: Duty, key: str, limit: int | None) -> bool:
        return (
            current.resolve_key == key
            and current.generation == self.identity.generation
            and current.name == self.workflow.name
            and current.memory_max_bytes == limit
        )

    def _spec(self, daemon_id: str, current: Duty | None, key: str) -> PipelineSpec | None:
        """Resolve for one daemon, keeping the running spec when only the workflow's name differs.

        None when it cannot be resolved there; the old duty then stays.
        """
        if current is not None and current.resolve_key == key:
            return current.spec
        daemon = self.ground.roster.by_id[daemon_id]
        try:
            spec = self.ground.resolve(
                self.workflow,
                daemon_name=daemon.name,
                daemon_uid=daemon.id,
                labels=daemon.labels,
                variables=self.ground.desired.project.variables,
            )
        except (MycelialError, SelectorError) as error:
            self._unresolvable(daemon_id, current, error)
            return None
        if current is not None and current.spec is not None:
            under_old_name = replace(spec, workflow=current.spec.workflow)
            if spec_hash_of(under_old_name) == current.spec_hash:
                return current.spec
        return spec

    def _unresolvable(self, daemon_id: str, current: Duty | None, error: Exception) -> None:
        problem = getattr(error, "problem", None)
        what = problem.what if isinstance(problem, Problem) else str(error)
        self.out.findings.append(Finding(conditions.UNRESOLVABLE, what, daemon_id))
        effect = Effect.CREATE if current is None else Effect.RESTART
        daemon_name = self.ground.name_of(daemon_id)
        self.out.changes.append(self._change(effect, (daemon_name,), held=f"{daemon_name}: {what}"))

    def _await(self, daemon_id: str, blockers: list[str]) -> None:
        names = ", ".join(sorted(self.ground.name_of(blocker) for blocker in blockers))
        text = f"starts on {self.ground.name_of(daemon_id)} once {names} has stopped it"
        self.out.findings.append(Finding(conditions.WAITING_FOR_HANDOVER, text, daemon_id))
        self.out.is_awaiting = True
        if self._entombed:
            self._note(daemon_id, Verdict(Effect.RESTART, f"moves from {names}; {_RESUMES}"))

    # -- what people are told --------------------------------------------------------------------

    def _note(self, daemon_id: str, verdict: Verdict, fields: tuple[FieldChange, ...] = ()) -> None:
        moved = self.before.name if self.before and self.before.name != self.workflow.name else ""
        names, _ = self._groups.setdefault((verdict.effect, verdict.reason, moved), ([], fields))
        names.append(self.ground.name_of(daemon_id))

    def _note_assigned(self, daemon_id: str, current: Duty | None, duty: Duty) -> None:
        if current is None:
            self._note(daemon_id, self._verdict_of_start())
        elif current.spec is None or duty.spec is None:
            self._note(daemon_id, Verdict(Effect.RESTART, "its former spec is not known"))
        else:
            fields = diff_specs(current.spec, duty.spec)
            verdict = classify(fields)
            if verdict.effect is Effect.UNCHANGED:
                verdict = Verdict(Effect.IN_PLACE, "the running pipeline goes on untouched")
            self._note(daemon_id, verdict, fields)

    def _verdict_of_start(self) -> Verdict:
        if self.before is None or self.before.epoch == 0:
            return Verdict(Effect.CREATE)
        if self.before.deleted:
            return Verdict(Effect.CREATE, "returns after its deletion; " + _RESUMES)
        if self.workflow.placement.mode is PlacementMode.EVERY:
            return Verdict(Effect.CREATE, "one more daemon matches")
        return Verdict(Effect.RESTART, "moves to this daemon; " + _RESUMES)

    def _change(
        self,
        effect: Effect,
        daemons: tuple[str, ...],
        *,
        reason: str = "",
        fields: tuple[FieldChange, ...] = (),
        moved_from: str = "",
        held: str = "",
    ) -> Change:
        return Change(
            kind="Workflow",
            name=self.workflow.name,
            uid=self.workflow.uid,
            effect=effect,
            reason=reason,
            daemons=daemons,
            lacking=_lacking_lines(self.placed, self.ground.name_of),
            fields=fields,
            moved_from=moved_from,
            held=held,
            location=self.workflow.location,
        )

    def _explain(self, blockers: list[str]) -> None:
        for (effect, reason, moved), (names, fields) in self._groups.items():
            self.out.changes.append(
                self._change(
                    effect, tuple(sorted(names)), reason=reason, fields=fields, moved_from=moved
                )
            )
        if self.placed.reason:
            self.out.findings.append(Finding(self.placed.reason, self.placed.message))
        for daemon_id, lacking in (self.placed.lacking or {}).items():
            if daemon_id not in self.held and self.placed.chosen:
                text = f"{self.ground.name_of(daemon_id)} lacks {', '.join(lacking)}"
                self.out.findings.append(Finding(LACKS_CAPABILITY, text, daemon_id))
        if not self.out.changes and self._shows_change():
            self.out.changes.append(self._unplaced_change(blockers))

    def _shows_change(self) -> bool:
        before = self.before
        return before is None or (before.digest, before.name, before.deleted) != (
            self.identity.digest,
            self.identity.name,
            False,
        )

    def _unplaced_change(self, blockers: list[str]) -> Change:
        """The object changes while nothing starts or stops: say so, and why."""
        moved = self.before.name if self.before and self.before.name != self.workflow.name else ""
        held = self.placed.message
        if not held and blockers:
            held = "; ".join(finding.message for finding in self.out.findings)
        effect = Effect.CREATE if self.before is None or self.before.deleted else Effect.IN_PLACE
        return self._change(effect, (), moved_from=moved, held=held)


_RESUMES = "goes on from the position the destination holds, and reads again where it holds none"


def _hash(spec: PipelineSpec, current: Duty | None) -> str:
    return current.spec_hash if current and current.spec is spec else spec_hash_of(spec)


def _same_for_daemon(current: Duty, duty: Duty) -> bool:
    return (
        current.generation == duty.generation
        and current.epoch == duty.epoch
        and current.spec_hash == duty.spec_hash
        and current.name == duty.name
        and current.memory_max_bytes == duty.memory_max_bytes
    )


def _lacking_lines(placed: PlacementResult, name_of: Callable[[str], str]) -> tuple[str, ...]:
    lacking = placed.lacking or {}
    return tuple(sorted(f"{name_of(i)}: {', '.join(missing)}" for i, missing in lacking.items()))


def entomb(
    duty: Duty,
    known: KnownWorkflow,
    *,
    epoch: int,
    now: float,
    policy: DeletionPolicy,
    forget: bool = False,
) -> Duty:
    """Turn an assignment into the explicit order to end it.

    The epoch rises, so that an older set that still assigns it is refused as a replay.
    """
    tombstone = Tombstone(
        uid=duty.uid,
        name=known.name,
        generation=known.generation,
        epoch=epoch,
        policy=policy,
        deadline_seconds=known.drain_deadline_seconds,
        forget=forget,
    )
    return replace(
        duty,
        name=known.name,
        generation=known.generation,
        epoch=epoch,
        spec_hash="",
        spec=None,
        tombstone=tombstone,
        resolve_key="",
        since=now,
    )


def delete_workflow(known: KnownWorkflow, held: Iterable[Duty], ground: Round) -> Decision:
    """Decide about a workflow that git no longer has and that may go."""
    out, epoch = Decision(), known.epoch + 1
    latest = ground.desired.project.incarnations.get(f"Workflow/{known.name}", 0)
    for duty in held:
        if ground.liveness_of(duty.daemon_id) is Liveness.REVOKED:
            out.ended.append(duty.daemon_id)
        elif duty.tombstone is None:
            out.duties.append(
                entomb(
                    duty,
                    known,
                    epoch=epoch,
                    now=ground.now,
                    policy=known.on_delete,
                    forget=latest > known.incarnation,
                )
            )
    out.known = replace(known, deleted=True, epoch=epoch if out.duties else known.epoch)
    names = tuple(sorted(ground.name_of(duty.daemon_id) for duty in out.duties))
    reason = f"{known.on_delete}; rows and checkpoints stay"
    out.changes.append(
        Change("Workflow", known.name, known.uid, Effect.DELETE, reason=reason, daemons=names)
    )
    return out
