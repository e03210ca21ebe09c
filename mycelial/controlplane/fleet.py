"""The roster: what every joined daemon last reported, and how fresh that is.

Folding a report is in memory and has no effects; `take_unsaved` hands over what the store has not
seen yet, so that thousands of reports become one transaction. Lives on the loop's thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mycelial.kernel.errors import NotAllowed
from mycelial.reconciler import lease
from mycelial.reconciler.observed import DaemonState, Liveness
from mycelial.schemas.wire import (
    FailedSet,
    Inventory,
    PipelineState,
    PipelineStatus,
    ReplyFlag,
    Report,
    ReportReply,
)
from mycelial.storage.base import DaemonRecord, StoredReport

BOOTS_REMEMBERED = 8


@dataclass(slots=True)
class Member:
    """One joined daemon. `heard_at` is monotonic; None means not since this process started."""

    record: DaemonRecord
    report: StoredReport | None = None
    heard_at: float | None = None
    retired_boots: tuple[str, ...] = ()
    refused_boot: str = ""
    last_failed: FailedSet | None = None
    load: Mapping[str, float] = field(default_factory=dict)
    announced: Liveness = Liveness.NEVER_JOINED


@dataclass(frozen=True, slots=True)
class Transition:
    """Something about a daemon or one of its pipelines that people are told once."""

    reason: str
    subject: str
    message: str
    severity: str = "info"
    daemon: str = ""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a report brought. `news` means that the reconciler has something to look at."""

    ack_seq: int
    flags: tuple[ReplyFlag, ...] = ()
    news: bool = False
    changed: bool = False
    record: DaemonRecord | None = None  # to be stored: a new inventory came
    transitions: tuple[Transition, ...] = ()


class Roster:
    """All joined daemons by id.

    Args: started_at: monotonic instant; no lease expires within `lease.BOOT_GRACE` of it,
    since after our own absence silence says nothing about the daemons.
    """

    def __init__(self, *, started_at: float) -> None:
        self._started_at = started_at
        self._members: dict[str, Member] = {}
        self._unsaved: set[str] = set()

    def load(self, records: Iterable[DaemonRecord], reports: Iterable[StoredReport]) -> None:
        """Take over what the store remembers."""
        for record in records:
            self._members[record.id] = Member(record)
        for report in reports:
            if report.daemon_id in self._members:
                self._members[report.daemon_id].report = report

    def put(self, record: DaemonRecord) -> None:
        """Add a daemon, or replace its record."""
        member = self._members.get(record.id)
        if member is None:
            self._members[record.id] = Member(record)
        else:
            member.record = record

    def get(self, daemon_id: str) -> Member | None:
        """Return one member."""
        return self._members.get(daemon_id)

    def named(self, name: str) -> Member | None:
        """Return the member of a name, preferring one that is not revoked."""
        found = [m for m in self._members.values() if m.record.name == name]
        return min(found, key=lambda m: m.record.revoked_at is not None, default=None)

    def by_key(self, key_hash: str) -> Member | None:
        """Return the member whose certificate is over this key."""
        found = (m for m in self._members.values() if m.record.key_hash == key_hash)
        return next(found, None)

    def members(self) -> tuple[Member, ...]:
        """Return all members by name."""
        return tuple(sorted(self._members.values(), key=lambda m: (m.record.name, m.record.id)))

    def __len__(self) -> int:
        return len(self._members)

    def fold(self, daemon_id: str, report: Report, *, now: float, monotonic: float) -> Folded:
        """Take in a report.

        A replay of (boot_id, seq) changes nothing and is acknowledged again; a gap without the
        full section asks for one. Raises: NotAllowed MYC-CP-030 for the newer of two daemons that
        share one identity; KeyError for an unknown daemon.
        """
        member = self._members[daemon_id]
        clone = self._check_identity(member, report)
        member.heard_at = monotonic
        last = member.report
        same_boot = last is not None and last.boot_id == report.boot_id
        if last is not None and same_boot and report.seq <= last.seq:
            return Folded(ack_seq=last.seq, flags=self._flags(member, report), transitions=clone)
        flags = list(self._flags(member, report))
        if report.pipelines is None and not (
            last is not None and same_boot and report.seq == last.seq + 1
        ):
            flags.append(ReplyFlag.REPORT_FULL)
        if last is not None and not same_boot:
            boots = (*member.retired_boots, last.boot_id)
            member.retired_boots = boots[-BOOTS_REMEMBERED:]
        return self._take(member, report, now=now, flags=tuple(flags), clone=clone)

    def _take(
        self,
        member: Member,
        report: Report,
        *,
        now: float,
        flags: tuple[ReplyFlag, ...],
        clone: tuple[Transition, ...],
    ) -> Folded:
        last = member.report
        before = last.pipelines if last else ()
        pipelines = report.pipelines if report.pipelines is not None else before
        record = self._with_inventory(member, report)
        member.report = StoredReport(
            daemon_id=member.record.id,
            boot_id=report.boot_id,
            seq=report.seq,
            received_at=now,
            received_hash=report.received_hash,
            applied_hash=report.applied_hash,
            inventory_hash=report.inventory_hash,
            pipelines=pipelines,
            tombstones_done=report.tombstones_done,
        )
        member.load = report.load
        transitions = clone + _pipeline_transitions(member.record.name, before, pipelines)
        transitions += _refusal(member, report.last_failed)
        member.last_failed = report.last_failed
        self._unsaved.add(member.record.id)
        applied = last is None or last.applied_hash != report.applied_hash
        tombstones = set(report.tombstones_done) - set(last.tombstones_done if last else ())
        return Folded(
            ack_seq=report.seq,
            flags=flags,
            news=applied
            or record is not None
            or bool(tombstones)
            or _duties_differ(before, pipelines),
            changed=applied or record is not None or pipelines != before,
            record=record,
            transitions=transitions,
        )

    def _check_identity(self, member: Member, report: Report) -> tuple[Transition, ...]:
        """Tell two running daemons with one certificate from one daemon that was restarted.

        A restart never speaks with an earlier boot id again. When one does, the later boot is the
        copy: its reports are refused, and never decide what the store knows.
        """
        if report.boot_id == member.refused_boot:
            raise NotAllowed(
                "MYC-CP-030",
                "another machine reports with the same identity",
                fix="remove this daemon's state directory and join it again with a new token",
            )
        if report.boot_id not in member.retired_boots:
            return ()
        newer = member.report.boot_id if member.report else ""
        member.refused_boot = newer
        member.retired_boots = tuple(b for b in member.retired_boots if b != report.boot_id)
        member.report = None  # what the copy said is not what this daemon runs
        return (
            Transition(
                "DuplicateIdentity",
                f"Daemon/{member.record.name}",
                "two machines report with one identity; the newer is refused",
                severity="error",
                daemon=member.record.name,
            ),
        )

    @staticmethod
    def _flags(member: Member, report: Report) -> tuple[ReplyFlag, ...]:
        known = member.record.inventory
        if report.inventory is None and (known is None or known.hash() != report.inventory_hash):
            return (ReplyFlag.INVENTORY,)
        return ()

    @staticmethod
    def _with_inventory(member: Member, report: Report) -> DaemonRecord | None:
        if report.inventory is None or report.inventory == member.record.inventory:
            return None
        member.record = dataclasses.replace(member.record, inventory=report.inventory)
        return member.record

    def reply(self, folded: Folded, *, desired_hash: str, now: float) -> ReportReply:
        """Return the answer; the server dictates the rhythm, and it grows with the fleet."""
        timing = lease.Timing.for_fleet(len(self))
        return ReportReply(
            ack_seq=folded.ack_seq,
            desired_hash=desired_hash,
            next_report_seconds=timing.interval_seconds,
            lease_seconds=timing.lease_seconds,
            reconnect_window_seconds=timing.reconnect_window_seconds,
            server_time=now,
            flags=folded.flags,
        )

    def liveness(self, member: Member, monotonic: float) -> Liveness:
        """Return how fresh the member's last report is."""
        if member.heard_at is None and member.report is None and member.record.revoked_at is None:
            return Liveness.NEVER_JOINED
        return lease.liveness(
            member.heard_at,
            monotonic,
            timing=lease.Timing.for_fleet(len(self)),
            started=self._started_at,
            is_revoked=member.record.revoked_at is not None,
        )

    def announce(self, monotonic: float) -> tuple[Transition, ...]:
        """Return what changed in liveness since the last call."""
        found = []
        for member in self._members.values():
            state, before = self.liveness(member, monotonic), member.announced
            member.announced = state
            if state is before or before is Liveness.NEVER_JOINED:
                continue
            bad = state in (Liveness.LATE, Liveness.OFFLINE, Liveness.REVOKED)
            name = member.record.name
            found.append(
                Transition(
                    f"Daemon{state.value}",
                    f"Daemon/{name}",
                    f"was {before.value}",
                    severity="warning" if bad else "info",
                    daemon=name,
                )
            )
        return tuple(found)

    def states(
        self, monotonic: float, git_labels: Mapping[str, Mapping[str, str]]
    ) -> dict[str, DaemonState]:
        """Return the reconciler's view. `git_labels`: by daemon name; they win over proposed."""
        return {
            member.record.id: _state(
                member, self.liveness(member, monotonic), git_labels.get(member.record.name, {})
            )
            for member in self._members.values()
        }

    def take_unsaved(self) -> tuple[StoredReport, ...]:
        """Return the newest report of each daemon that changed since the last call."""
        found = (self._members[i].report for i in sorted(self._unsaved) if i in self._members)
        reports = tuple(report for report in found if report is not None)
        self._unsaved.clear()
        return reports

    def put_back(self, reports: Iterable[StoredReport]) -> None:
        """Mark reports unsaved again: the store did not take them."""
        self._unsaved.update(report.daemon_id for report in reports)


def effective_labels(record: DaemonRecord, git_labels: Mapping[str, str]) -> dict[str, str]:
    """Overlay labels: proposed at joining, then the daemon's inventory, then git."""
    inventory: Inventory | None = record.inventory
    reported = inventory.labels if inventory else {}
    return {**reported, **record.proposed_labels, **git_labels}


def _state(member: Member, liveness: Liveness, git_labels: Mapping[str, str]) -> DaemonState:
    report = member.report
    return DaemonState(
        id=member.record.id,
        name=member.record.name,
        liveness=liveness,
        labels=effective_labels(member.record, git_labels),
        inventory=member.record.inventory,
        pipelines={p.uid: p for p in report.pipelines} if report else {},
        received_hash=report.received_hash if report else "",
        applied_hash=report.applied_hash if report else "",
        last_report=report.received_at if report else 0.0,
        tombstones_done=frozenset(report.tombstones_done) if report else frozenset(),
    )


_TOLD = {
    PipelineState.FAILED: ("PipelineFailed", "error"),
    PipelineState.RETRYING: ("PipelineRetrying", "warning"),
    PipelineState.FINISHED: ("PipelineFinished", "info"),
    PipelineState.STOPPED: ("PipelineStopped", "info"),
}
_WELL = (PipelineState.RUNNING, PipelineState.WAITING, PipelineState.FINISHED)


def _duties_differ(before: Iterable[PipelineStatus], after: Iterable[PipelineStatus]) -> bool:
    """Tell whether more than figures changed; figures come with every report."""

    def decisive(statuses: Iterable[PipelineStatus]) -> set[tuple[object, ...]]:
        return {
            (s.uid, s.generation, s.observed_generation, s.epoch, s.spec_hash, s.state)
            for s in statuses
        }

    return decisive(before) != decisive(after)


def _pipeline_transitions(
    daemon: str, before: Iterable[PipelineStatus], after: Iterable[PipelineStatus]
) -> tuple[Transition, ...]:
    earlier = {status.uid: status for status in before}
    found = []
    for status in after:
        old = earlier.get(status.uid)
        if old is not None and old.state is status.state and old.error == status.error:
            continue
        told = _TOLD.get(status.state)
        was_bad = old is not None and old.state in (PipelineState.FAILED, PipelineState.RETRYING)
        if told is None and was_bad and status.state in _WELL:
            told = ("PipelineRecovered", "info")
        if told is None:
            continue
        reason, severity = told
        message = f"{status.error.code} {status.error.what}" if status.error else status.state.value
        found.append(Transition(reason, f"Workflow/{status.name}", message, severity, daemon))
    return tuple(found)


def _refusal(member: Member, failed: FailedSet | None) -> tuple[Transition, ...]:
    if failed is None or failed == member.last_failed:
        return ()
    name = member.record.name
    return (
        Transition(
            "SetRefused", f"Daemon/{name}", f"{failed.code} {failed.message}", "error", name
        ),
    )
