"""What a report holds. Pure but for its memory of what the server has acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mycelial.schemas.desired import Uid
from mycelial.schemas.wire import (
    FailedSet,
    Inventory,
    PipelineStatus,
    ReplyFlag,
    Report,
    ReportReply,
)

MESSAGE_CHARS_MAX = 2048
COALESCE_SECONDS = 0.05
COALESCE_MAX_SECONDS = 2.0
PROMPT_REPORTS = 6  # what one commit causes: received, ended, starting, running, applied; one spare


@dataclass(frozen=True, slots=True)
class View:
    """Everything a report can say, now."""

    store_id: str = ""
    rev: int = 0
    received_hash: str = ""
    applied_hash: str = ""
    pipelines: tuple[PipelineStatus, ...] = ()
    tombstones_done: tuple[Uid, ...] = ()
    last_failed: FailedSet | None = None
    load: Mapping[str, float] = field(default_factory=dict)


class ReportBuilder:
    """Numbers reports and leaves out what the server has acknowledged.

    One latest message, never a queue: a report that was lost is not repeated, the next one is
    built from what is true by then.
    """

    def __init__(self, boot_id: str) -> None:
        self.inventory: Inventory | None = None  # set before the first report
        self._boot_id = boot_id
        self._seq = 0
        self._acked_pipelines: tuple[PipelineStatus, ...] | None = None
        self._acked_inventory = ""

    def build(self, view: View, *, now: float) -> Report:
        """Return the next report."""
        assert self.inventory is not None, "an inventory is taken before anything is reported"
        self._seq += 1
        inventory_hash = self.inventory.hash()
        has_inventory = self._acked_inventory == inventory_hash
        return Report(
            boot_id=self._boot_id,
            seq=self._seq,
            store_id=view.store_id,
            rev=view.rev,
            received_hash=view.received_hash,
            applied_hash=view.applied_hash,
            inventory_hash=inventory_hash,
            wall_time=now,
            pipelines=None if view.pipelines == self._acked_pipelines else view.pipelines,
            tombstones_done=view.tombstones_done,
            inventory=None if has_inventory else self.inventory,
            last_failed=view.last_failed,
            load=view.load,
        )

    def acknowledge(self, report: Report, reply: ReportReply) -> bool:
        """Take over what the server now knows; tells whether it wants more at once."""
        if report.pipelines is not None:
            self._acked_pipelines = report.pipelines
        self._acked_inventory = report.inventory_hash
        wants_full = ReplyFlag.REPORT_FULL in reply.flags
        wants_inventory = ReplyFlag.INVENTORY in reply.flags
        if wants_full:
            self._acked_pipelines = None
        if wants_full or wants_inventory:
            self._acked_inventory = ""
        # A server that asks again for what it was just given must not make us spin.
        return (wants_full and report.pipelines is None) or (
            (wants_full or wants_inventory) and report.inventory is None
        )

    def forget(self) -> None:
        """Make the next report a full one: the server may be another one by now."""
        self._acked_pipelines = None
        self._acked_inventory = ""


def observable(view: View) -> object:
    """Return the part of a view whose change is worth a report at once: not counters."""
    return (
        view.received_hash,
        view.applied_hash,
        view.tombstones_done,
        view.last_failed,
        frozenset(_observable_status(status) for status in view.pipelines),
    )


def coalesce_seconds(previous_quick_reports: int) -> float:
    """Return how long to collect changes before a report at once: short for the few that follow
    a commit, longer while they keep coming, so that a flapping pipeline cannot flood the server."""
    excess = min(max(0, previous_quick_reports - PROMPT_REPORTS), 10)
    return min(COALESCE_MAX_SECONDS, COALESCE_SECONDS * 2.0**excess)


def failed_set(bundle_hash: str, code: str, message: str) -> FailedSet:
    """Return a bounded FailedSet."""
    return FailedSet(bundle_hash, code, message[:MESSAGE_CHARS_MAX])


def by_name(statuses: Iterable[PipelineStatus]) -> tuple[PipelineStatus, ...]:
    """Return statuses in a stable order, so that equal states are equal reports."""
    return tuple(sorted(statuses, key=lambda status: (status.name, status.uid)))


def _observable_status(status: PipelineStatus) -> object:
    return (
        status.uid,
        status.generation,
        status.observed_generation,
        status.epoch,
        status.attempt,
        status.spec_hash,
        status.state,
        status.guarantee,
        status.error.code if status.error else "",
        tuple((c.type, c.status, c.reason) for c in status.conditions),
    )
