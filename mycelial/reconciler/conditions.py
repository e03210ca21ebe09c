"""Say in two words how a workflow is: Applied (git to daemon) and Healthy (data flows).

Pure. In: a duty, the daemon that holds it, now. Out: conditions, and their sum over daemons.
Nothing reads Healthy before the daemon has observed the very generation that is meant (R7), and
what a daemon said before it fell silent is Unknown, never True.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mycelial.reconciler.observed import DaemonState, Duty, Liveness
from mycelial.schemas.wire import Condition, PipelineState, PipelineStatus, Truth

APPLIED = "Applied"
HEALTHY = "Healthy"
STALLED = "Stalled"
VERIFIED = "Verified"
TYPES = frozenset({APPLIED, HEALTHY, STALLED, VERIFIED})

# Why Applied is what it is.
UP_TO_DATE = "UpToDate"
PROGRESSING = "Progressing"
NOT_REPORTED = "NotReported"
REPORT_STALE = "ReportStale"
AHEAD_OF_STORE = "AheadOfStore"
DELETE_PENDING = "DeletePending"
DELETION_HELD = "DeletionHeld"
DEPARTURE_HELD = "DepartureHeld"
WAITING_FOR_HANDOVER = "WaitingForHandover"
UNRESOLVABLE = "Unresolvable"
INVALID_MANIFEST = "InvalidManifest"
NOT_PLACED = "NotPlaced"

# Why Healthy is what it is.
NOT_YET_APPLIED = "NotYetApplied"
FLOWING = "Flowing"
WAITING = "Waiting"
FINISHED = "Finished"
STARTING = "Starting"
DRAINING = "Draining"
RETRYING = "Retrying"
STALLED_REASON = "Stalled"
FAILED = "Failed"
STOPPED = "Stopped"

_BY_STATE = {
    PipelineState.STARTING: (Truth.UNKNOWN, STARTING),
    PipelineState.RUNNING: (Truth.TRUE, FLOWING),
    PipelineState.WAITING: (Truth.TRUE, WAITING),
    PipelineState.RETRYING: (Truth.FALSE, RETRYING),
    PipelineState.DRAINING: (Truth.UNKNOWN, DRAINING),
    PipelineState.STOPPED: (Truth.FALSE, STOPPED),
    PipelineState.FINISHED: (Truth.TRUE, FINISHED),
    PipelineState.FAILED: (Truth.FALSE, FAILED),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What planning found about a workflow; on one daemon when `daemon_id` is set."""

    reason: str
    message: str = ""
    daemon_id: str = ""


def applied_condition(
    duty: Duty, daemon: DaemonState | None, *, now: float, finding: Finding | None = None
) -> Condition:
    """Tell whether the daemon runs exactly what `duty` says.

    `finding` is why planning could not give the daemon its newest duty, if it could not.
    """
    if duty.tombstone is not None:
        return _applied(duty, Truth.FALSE, DELETE_PENDING, _pending(daemon), now)
    if finding is not None:
        return _applied(duty, Truth.FALSE, finding.reason, finding.message, now)
    if daemon is None or daemon.liveness is not Liveness.ONLINE:
        return _applied(duty, Truth.UNKNOWN, REPORT_STALE, _silence(daemon), now)
    status = daemon.pipelines.get(duty.uid)
    if status is None:
        return _applied(duty, Truth.FALSE, PROGRESSING, "not yet reported by the daemon", now)
    if status.observed_generation > duty.generation or status.epoch > duty.epoch:
        text = (
            f"the daemon knows generation {status.observed_generation}, epoch {status.epoch}; "
            f"the store knows {duty.generation}, {duty.epoch}"
        )
        return _applied(duty, Truth.UNKNOWN, AHEAD_OF_STORE, text, now)
    if not is_observed(duty, status):
        text = f"generation {status.observed_generation} of {duty.generation}"
        return _applied(duty, Truth.FALSE, PROGRESSING, text, now)
    return _applied(duty, Truth.TRUE, UP_TO_DATE, "", now)


def healthy_condition(duty: Duty, daemon: DaemonState | None, *, now: float) -> Condition:
    """Tell whether data flows, judged only by a fresh report of the very duty (R6, R7)."""
    if daemon is None or daemon.liveness is not Liveness.ONLINE:
        return _healthy(duty, Truth.UNKNOWN, REPORT_STALE, _silence(daemon), now)
    status = daemon.pipelines.get(duty.uid)
    if status is None:
        return _healthy(duty, Truth.UNKNOWN, NOT_REPORTED, "", now)
    if duty.tombstone is not None or not is_observed(duty, status):
        return _healthy(duty, Truth.UNKNOWN, NOT_YET_APPLIED, "", now)
    stalled = next((c for c in status.conditions if c.type == STALLED), None)
    if stalled is not None and stalled.status is Truth.TRUE:
        return _healthy(duty, Truth.FALSE, STALLED_REASON, stalled.message, now)
    truth, reason = _BY_STATE[status.state]
    message = status.error.what if status.error is not None and truth is not Truth.TRUE else ""
    return _healthy(duty, truth, reason, message, now)


def is_observed(duty: Duty, status: PipelineStatus) -> bool:
    """Tell whether a status speaks of exactly this duty."""
    return (
        status.observed_generation == duty.generation
        and status.epoch == duty.epoch
        and status.spec_hash == duty.spec_hash
    )


def _applied(duty: Duty, status: Truth, reason: str, message: str, now: float) -> Condition:
    return Condition(APPLIED, status, reason, message, now, duty.generation)


def _healthy(duty: Duty, status: Truth, reason: str, message: str, now: float) -> Condition:
    return Condition(HEALTHY, status, reason, message, now, duty.generation)


def _silence(daemon: DaemonState | None) -> str:
    if daemon is None:
        return "the daemon is not known"
    return f"{daemon.name} is {daemon.liveness.lower()}"


def _pending(daemon: DaemonState | None) -> str:
    if daemon is None or daemon.liveness is not Liveness.ONLINE:
        return f"waits for the daemon to stop it: {_silence(daemon)}"
    return "the daemon is stopping it"


def carry(previous: Condition | None, new: Condition) -> Condition:
    """Keep the time of the last transition when the status did not change."""
    if previous is None or previous.type != new.type or previous.status is not new.status:
        return new
    return replace(new, last_transition=previous.last_transition)


@dataclass(frozen=True, slots=True)
class Placed:
    """One (workflow, daemon) pair: the duty, its holder and the two conditions."""

    duty: Duty
    daemon: DaemonState | None
    applied: Condition
    healthy: Condition


@dataclass(frozen=True, slots=True)
class Summary:
    """A workflow over its daemons: `applied` and `healthy` count daemons out of `placed`.

    `reason` and `message` are those of the worst condition; empty when all is well.
    """

    placed: int
    applied: int
    healthy: int
    conditions: tuple[Condition, ...]
    reason: str = ""
    message: str = ""
    placements: tuple[Placed, ...] = ()


def assess(
    duty: Duty, daemon: DaemonState | None, *, now: float, findings: Iterable[Finding] = ()
) -> Placed:
    """Return the conditions of one duty."""
    about = next((f for f in findings if f.daemon_id == duty.daemon_id), None)
    return Placed(
        duty,
        daemon,
        applied_condition(duty, daemon, now=now, finding=about),
        healthy_condition(duty, daemon, now=now),
    )


def summarise(
    pairs: Iterable[tuple[Duty, DaemonState | None]],
    *,
    now: float,
    generation: int,
    findings: Sequence[Finding] = (),
) -> Summary:
    """Sum a workflow up over its duties. A duty that is a tombstone is shown but not counted.

    A finding about the workflow, or about a daemon that has no duty yet, keeps Applied from being
    True: something that git asks for is not there.
    """
    placements = tuple(assess(duty, daemon, now=now, findings=findings) for duty, daemon in pairs)
    counted = [placed for placed in placements if placed.duty.tombstone is None]
    held = {placed.duty.daemon_id for placed in placements}
    missing = [f for f in findings if f.daemon_id not in held]
    conditions = (
        _sum(APPLIED, [p.applied for p in counted], missing, now=now, generation=generation),
        _sum(HEALTHY, [p.healthy for p in counted], (), now=now, generation=generation),
    )
    worst = min(
        (c for c in conditions if c.status is not Truth.TRUE),
        key=lambda c: (_RANK[c.status], c.type),
        default=None,
    )
    return Summary(
        placed=len(counted),
        applied=_count(p.applied for p in counted),
        healthy=_count(p.healthy for p in counted),
        conditions=conditions,
        reason=worst.reason if worst else "",
        message=worst.message if worst else "",
        placements=placements,
    )


_RANK = {Truth.FALSE: 0, Truth.UNKNOWN: 1, Truth.TRUE: 2}
# An informative finding does not say that anything is missing from where it should be.
_BENIGN = frozenset({DELETION_HELD, DEPARTURE_HELD, DELETE_PENDING})


def _count(conditions: Iterable[Condition]) -> int:
    return sum(condition.status is Truth.TRUE for condition in conditions)


def _sum(
    kind: str,
    conditions: Sequence[Condition],
    missing: Sequence[Finding],
    *,
    now: float,
    generation: int,
) -> Condition:
    serious = [finding for finding in missing if finding.reason not in _BENIGN]
    if serious:
        first = serious[0]
        return Condition(kind, Truth.FALSE, first.reason, first.message, now, generation)
    if not conditions:
        return Condition(kind, Truth.UNKNOWN, NOT_PLACED, "no daemon runs it", now, generation)
    worst = min(conditions, key=lambda c: _RANK[c.status])
    return replace(worst, last_transition=now, observed_generation=generation)


_REASON = re.compile(r"[A-Z][A-Za-z0-9]*")


def violations(placed: Placed) -> tuple[str, ...]:
    """Return what is self-contradictory in a pair's conditions; empty when sound. For tests."""
    duty, daemon, applied, healthy = placed.duty, placed.daemon, placed.applied, placed.healthy
    online = daemon is not None and daemon.liveness is Liveness.ONLINE
    status = daemon.pipelines.get(duty.uid) if daemon is not None else None
    observed = status is not None and is_observed(duty, status)
    rules = {
        "types are Applied and Healthy": (applied.type, healthy.type) == (APPLIED, HEALTHY),
        "reasons are PascalCase": all(_REASON.fullmatch(c.reason) for c in (applied, healthy)),
        "True needs a fresh report": online or Truth.TRUE not in (applied.status, healthy.status),
        "Applied True needs the observed duty": applied.status is not Truth.TRUE or observed,
        "Healthy is read only once observed": healthy.status is Truth.UNKNOWN or observed,
        "a tombstone is never Applied or Healthy": duty.tombstone is None
        or Truth.TRUE not in (applied.status, healthy.status),
        "conditions speak of the duty's generation": applied.observed_generation
        == healthy.observed_generation
        == duty.generation,
    }
    return tuple(rule for rule, holds in rules.items() if not holds)
