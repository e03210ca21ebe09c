"""The use cases of people: each one authorises, acts, and records what it did.

The web pages and the API call these and nothing below. Daemons' use cases are `links` and
`joining`.
"""

from __future__ import annotations

import dataclasses

from mycelial import __version__
from mycelial.controlplane import looking
from mycelial.controlplane.acting import Acts
from mycelial.controlplane.auth import Principal, Right
from mycelial.controlplane.changing import Changes
from mycelial.controlplane.chronicle import ChangeCounter
from mycelial.controlplane.controller import FleetController
from mycelial.controlplane.joining import Joining
from mycelial.controlplane.links import DaemonLinks
from mycelial.controlplane.threads import Lanes
from mycelial.controlplane.waiting import judge
from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import MycelialError
from mycelial.schemas.views import (
    ActReply,
    ApplyReply,
    ApplyRequest,
    DaemonView,
    EventView,
    LogsReply,
    ObjectView,
    PlanReply,
    PlanRequest,
    RevisionView,
    RollbackRequest,
    StateChange,
    StateView,
    StatusView,
    TokenReply,
    TokenRequest,
    WaitReply,
    WhoAmI,
    WorkflowView,
)
from mycelial.storage.base import Event, Store


class ControlPlane:
    """Everything people and pages may ask for. Use from the loop's thread."""

    def __init__(
        self,
        *,
        controller: FleetController,
        changes: Changes,
        joining: Joining,
        links: DaemonLinks,
        acts: Acts,
        store: Store,
        lanes: Lanes,
        clock: Clock,
        counter: ChangeCounter,
        store_id: str,
    ) -> None:
        self.joining = joining
        self.links = links
        self.counter = counter
        self._controller = controller
        self._changes = changes
        self._acts = acts
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._store_id = store_id

    # Looking

    async def whoami(self, who: Principal) -> WhoAmI:
        """Return the caller's name and rights."""
        return WhoAmI(who.name, tuple(sorted(who.rights)))

    async def status(self, who: Principal) -> StatusView:
        """Return the fleet on one screen."""
        snapshot = self._look(who)
        view = looking.status_view(snapshot, version=__version__, store_id=self._store_id)
        trouble = self._controller.store_error
        return dataclasses.replace(view, problems=(*view.problems, trouble)) if trouble else view

    async def workflows(self, who: Principal, *, selector: str = "") -> tuple[WorkflowView, ...]:
        """Return the workflows whose labels match."""
        return looking.workflow_views(self._look(who), selector)

    async def workflow(self, who: Principal, name: str) -> WorkflowView:
        """Return one workflow with its manifest."""
        view = looking.workflow_view(self._look(who), name)
        manifest = await self._changes.manifest(("Workflow", name))
        return dataclasses.replace(view, manifest=manifest)

    async def daemons(self, who: Principal, *, selector: str = "") -> tuple[DaemonView, ...]:
        """Return the daemons whose labels match."""
        return looking.daemon_views(self._look(who), selector)

    async def daemon(self, who: Principal, name: str) -> DaemonView:
        """Return one daemon."""
        return looking.daemon_view(self._look(who), name)

    async def objects(self, who: Principal, *, kind: str = "") -> tuple[ObjectView, ...]:
        """Return objects as compiled from git, without their text."""
        return looking.object_views(self._look(who), kind)

    async def one_object(self, who: Principal, *, kind: str, name: str) -> ObjectView:
        """Return one object with its text."""
        view = looking.object_view(self._look(who), kind, name)
        manifest = await self._changes.manifest((view.kind, view.name))
        return dataclasses.replace(view, manifest=manifest)

    async def history(
        self, who: Principal, *, limit: int = 50, name: str = ""
    ) -> tuple[RevisionView, ...]:
        """Return commits, newest first."""
        who.require(Right.LOOK)
        return await self._changes.history(limit=limit, subject=name)

    async def events(
        self,
        who: Principal,
        *,
        after: int = 0,
        limit: int = 200,
        subject: str = "",
        newest: bool = True,
        wait_seconds: float = 0.0,
    ) -> tuple[EventView, ...]:
        """Return events, oldest first; waits for one when there are none yet."""
        who.require(Right.LOOK)
        deadline = self._clock.monotonic() + wait_seconds
        while True:
            seen = self.counter.value
            found = await self._lanes.store.run(
                self._store.events, after_id=after, limit=limit, subject=subject, newest=newest
            )
            left = deadline - self._clock.monotonic()
            if found or left <= 0:
                return tuple(_event_view(e) for e in sorted(found, key=lambda e: e.id))
            await self.counter.wait(seen, left)

    async def logs(
        self, who: Principal, name: str, *, daemon: str = "", tail: int = 100, cursor: str = ""
    ) -> tuple[LogsReply, ...]:
        """Return the end of a workflow's logs, fetched from its daemons."""
        snapshot = self._look(who)
        return await self._acts.logs(who, snapshot, name, daemon=daemon, lines=tail, cursor=cursor)

    async def state(self, who: Principal, name: str) -> tuple[StateView, ...]:
        """Return committed positions, as last reported."""
        return looking.state_views(self._look(who), name)

    async def wait(
        self, who: Principal, *, subject: str, condition: str, wait_seconds: float
    ) -> WaitReply:
        """Return as soon as the subject is as asked, or not met after that time.

        Raises: CheckSaysNo as soon as it has failed for good.
        """
        deadline = self._clock.monotonic() + wait_seconds
        while True:
            seen = self.counter.value
            met, reason = judge(self._look(who), subject, condition)
            left = deadline - self._clock.monotonic()
            if met or left <= 0:
                return WaitReply(met=met, reason=reason, change=seen)
            # Liveness turns with time alone, so look again within a second in any case.
            await self.counter.wait(seen, min(left, 1.0))

    # Changing

    async def plan(self, who: Principal, request: PlanRequest) -> PlanReply:
        """Return what a request would do; with `live`, also what the daemons see of it."""
        who.require(Right.LOOK)
        prepared = await self._changes.prepare(request)
        reply = prepared.reply()
        if not request.live or prepared.errors:
            return reply
        live, unknown = await self._acts.probe(self._controller.fleet(), prepared.outcome)
        return dataclasses.replace(reply, live=live, live_unknown=unknown)

    async def apply(self, who: Principal, request: ApplyRequest) -> ApplyReply:
        """Commit a request."""
        return await self._changes.apply(who, request)

    async def rollback(self, who: Principal, request: RollbackRequest) -> ApplyReply:
        """Commit the reversal of a revision."""
        return await self._changes.rollback(who, request)

    # Operating

    async def set_state(self, who: Principal, name: str, change: StateChange) -> ActReply:
        """Make a pipeline go on from a position."""
        return await self._acts.set_state(who, self._look(who), name, change)

    async def retry(self, who: Principal, name: str) -> ActReply:
        """Make failed pipelines try again."""
        return await self._acts.retry(who, self._look(who), name)

    async def sync(self, who: Principal) -> ActReply:
        """Look at the source now."""
        return await self._acts.sync(who, self._look(who))

    # Joining

    async def create_token(self, who: Principal, request: TokenRequest) -> TokenReply:
        """Make a join token."""
        return await self.joining.create_token(who, request)

    async def revoke(self, who: Principal, name: str) -> DaemonView:
        """Refuse a daemon from now on."""
        view = looking.daemon_view(self._look(who), name)
        await self.joining.revoke(who, name)
        return dataclasses.replace(view, liveness="Revoked")

    # Health

    async def readiness(self) -> dict[str, str]:
        """Return check -> "ok" or why not. A source that is away blocks nothing that runs."""
        checks = {"loop": "ok"}
        try:
            await self._lanes.store.run(self._store.store_id)
            trouble = self._controller.store_error
            checks["store"] = f"{trouble.code} {trouble.what}" if trouble else "ok"
        except MycelialError as error:
            checks["store"] = str(error)
        seen = self._controller.snapshot
        known = seen.revision_seen or seen.source_error is not None
        checks["controller"] = "ok" if known else "no revision has been looked at yet"
        return checks

    def _look(self, who: Principal) -> looking.Snapshot:
        who.require(Right.LOOK)
        return self._controller.current()


def _event_view(event: Event) -> EventView:
    return EventView(
        id=event.id,
        at=event.at,
        severity=event.severity,
        reason=event.reason,
        subject=event.subject,
        message=event.message,
        daemon=event.daemon,
        revision=event.revision,
        count=event.count,
    )
