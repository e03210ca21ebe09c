"""The machine's half: what a daemon does so that what runs becomes what is assigned.

Pure. In: the assignment set, what runs, the highest (generation, epoch) ever accepted per uid.
Out: operations; or, for a set that arrives, whether to take it at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mycelial.reconciler.running import Operation, OperationKind, RunningPipeline
from mycelial.schemas.desired import DeletionPolicy, Uid
from mycelial.schemas.wire import Assignment, AssignmentSet, PipelineState, Tombstone

Seen = tuple[int, int]  # (generation, epoch)

_ENDED = frozenset({PipelineState.STOPPED, PipelineState.FINISHED, PipelineState.FAILED})
# States in which a pipeline without a process is nobody's care: the supervisor has lost it.
# Without a process, WAITING, RETRYING and STARTING are the supervisor's own, between two workers.
_LOST = frozenset({PipelineState.RUNNING, PipelineState.DRAINING, PipelineState.STOPPED})


@dataclass(frozen=True, slots=True)
class Accepted:
    """The set may replace the old one. Persist `last_seen` with it, in one write."""

    last_seen: Mapping[Uid, Seen]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The set is refused; goes into the report as the last failed one."""

    code: str
    message: str


def accept(
    new: AssignmentSet,
    old: AssignmentSet | None,
    *,
    daemon_id: str,
    last_seen: Mapping[Uid, Seen],
) -> Accepted | Refusal:
    """Judge a set that arrived, after its signature was found good.

    Refused: a set for another daemon; an older one of the same store; the same revision with
    other contents; any uid with a lower generation or epoch than ever seen (a replay, or a store
    restored from a backup). A set that merely lacks something is accepted: absence ends nothing.
    """
    if new.daemon_id != daemon_id:
        return Refusal("MYC-PLAN-001", f"the set is for daemon {new.daemon_id}, not {daemon_id}")
    if old is not None and new.store_id == old.store_id:
        if new.rev < old.rev:
            return Refusal("MYC-PLAN-002", f"revision {new.rev} is older than {old.rev}")
        if new.rev == old.rev and new.bundle_hash() != old.bundle_hash():
            return Refusal("MYC-PLAN-003", f"revision {new.rev} came with two different contents")
    seen = dict(last_seen)
    items: tuple[Assignment | Tombstone, ...] = (*new.assignments, *new.tombstones)
    for item in items:
        pair = (item.generation, item.epoch)
        highest = last_seen.get(item.uid, (0, 0))
        if is_lower(pair, highest):
            what = f"{item.name}: generation and epoch {pair} are lower than {highest} seen before"
            return Refusal("MYC-PLAN-004", what)
        seen[item.uid] = pair
    return Accepted(seen)


def is_lower(pair: Seen, highest: Seen) -> bool:
    """Tell whether either number goes back. Neither ever does in an honest history."""
    return pair[0] < highest[0] or pair[1] < highest[1]


def converge(
    assignments: AssignmentSet,
    running: Mapping[Uid, RunningPipeline],
    *,
    last_seen: Mapping[Uid, Seen],
) -> tuple[Operation, ...]:
    """Return the operations that bring what runs to what is assigned; empty when it is so.

    `running` holds every pipeline with a process or with local state left, also after its end.
    Only a tombstone ends a pipeline; one that the set does not mention goes on (R2) and is named
    by `unmanaged`. Ends come before starts, so that what they free is free.
    """
    ends = (_end(t, running.get(t.uid), last_seen) for t in _tombstones(assignments))
    starts = (_run(a, running.get(a.uid), last_seen) for a in _assignments(assignments))
    return tuple(operation for operation in (*ends, *starts) if operation is not None)


def unmanaged(
    assignments: AssignmentSet, running: Mapping[Uid, RunningPipeline]
) -> tuple[RunningPipeline, ...]:
    """Return what runs although the set neither assigns nor ends it; or was left by `orphan`."""
    ruled = {a.uid for a in assignments.assignments}
    ruled |= {t.uid for t in assignments.tombstones if t.policy is not DeletionPolicy.ORPHAN}
    found = (p for p in running.values() if p.uid not in ruled and not _is_over(p))
    return tuple(sorted(found, key=lambda pipeline: (pipeline.name, pipeline.uid)))


def tombstones_done(
    assignments: AssignmentSet, running: Mapping[Uid, RunningPipeline]
) -> tuple[Uid, ...]:
    """Return the uids whose tombstone is carried out: what the daemon reports, until asked no more.

    An orphaned pipeline is done at once: it is let go, not ended.
    """
    return tuple(
        tombstone.uid
        for tombstone in _tombstones(assignments)
        if _is_done(tombstone, running.get(tombstone.uid))
    )


def _is_done(tombstone: Tombstone, pipeline: RunningPipeline | None) -> bool:
    if pipeline is None or tombstone.policy is DeletionPolicy.ORPHAN:
        return True
    return _is_over(pipeline) and not tombstone.forget


def _is_over(pipeline: RunningPipeline) -> bool:
    return not pipeline.has_process and pipeline.state in _ENDED


def _assignments(of: AssignmentSet) -> Iterator[Assignment]:
    yield from sorted(of.assignments, key=lambda item: (item.name, item.uid))


def _tombstones(of: AssignmentSet) -> Iterator[Tombstone]:
    """A uid that is assigned as well is not ended: the planner never says both."""
    assigned = {item.uid for item in of.assignments}
    found = (item for item in of.tombstones if item.uid not in assigned)
    yield from sorted(found, key=lambda item: (item.name, item.uid))


def _is_refused(
    item: Assignment | Tombstone, pipeline: RunningPipeline | None, last_seen: Mapping[Uid, Seen]
) -> bool:
    pair = (item.generation, item.epoch)
    if is_lower(pair, last_seen.get(item.uid, (0, 0))):
        return True
    return pipeline is not None and is_lower(pair, (pipeline.generation, pipeline.epoch))


def _run(
    item: Assignment, pipeline: RunningPipeline | None, last_seen: Mapping[Uid, Seen]
) -> Operation | None:
    if _is_refused(item, pipeline, last_seen):
        return None
    if pipeline is None:
        return _operation(OperationKind.START, item, "not running yet")
    if pipeline.spec_hash != item.spec_hash:
        return _renew(item, pipeline, "its spec changed")
    match pipeline.state:
        case PipelineState.FINISHED:
            pass  # the same work is not done twice
        case PipelineState.FAILED:
            if pipeline.generation != item.generation:
                return _renew(item, pipeline, "a new generation may have mended what failed")
        case _:
            if pipeline.epoch != item.epoch:
                # A worker holds its fence from its start; only a new one can raise it (R12).
                return _renew(item, pipeline, "its epoch rose")
            if not pipeline.has_process and pipeline.state in _LOST:
                return _operation(OperationKind.START, item, "assigned, but without a process")
    if (pipeline.generation, pipeline.epoch) != (item.generation, item.epoch):
        return _operation(OperationKind.ADOPT, item, "same spec under a newer label")
    return None


def _renew(item: Assignment, pipeline: RunningPipeline, reason: str) -> Operation:
    kind = OperationKind.RESTART if pipeline.has_process else OperationKind.START
    return _operation(kind, item, reason)


def _operation(kind: OperationKind, item: Assignment, reason: str) -> Operation:
    return Operation(
        kind=kind,
        uid=item.uid,
        name=item.name,
        generation=item.generation,
        epoch=item.epoch,
        spec_hash=item.spec_hash,
        spec=None if kind is OperationKind.ADOPT else item.spec,
        reason=reason,
    )


def _end(
    item: Tombstone, pipeline: RunningPipeline | None, last_seen: Mapping[Uid, Seen]
) -> Operation | None:
    if pipeline is None or item.policy is DeletionPolicy.ORPHAN:
        return None
    if _is_refused(item, pipeline, last_seen):
        return None
    if _is_over(pipeline):
        return _ending(OperationKind.FORGET, item, "its state goes, too") if item.forget else None
    if item.policy is DeletionPolicy.STOP or pipeline.state in _ENDED:
        return _ending(OperationKind.STOP, item, "its workflow is gone")
    if pipeline.state is not PipelineState.DRAINING:
        return _ending(OperationKind.DRAIN, item, "its workflow is gone")
    # A drain under way goes on by itself; one that lost its process has nothing left to finish.
    lost = not pipeline.has_process
    return _ending(OperationKind.STOP, item, "it ended while draining") if lost else None


def _ending(kind: OperationKind, item: Tombstone, reason: str) -> Operation:
    return Operation(
        kind=kind,
        uid=item.uid,
        name=item.name,
        generation=item.generation,
        epoch=item.epoch,
        deadline_seconds=item.deadline_seconds,
        reason=reason,
    )
