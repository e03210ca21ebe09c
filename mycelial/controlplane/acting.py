"""Run-time acts: asked of the daemons, done there, and never part of the desired state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mycelial.controlplane.auth import Principal, Right
from mycelial.controlplane.chronicle import Chronicle
from mycelial.controlplane.links import DaemonLinks
from mycelial.controlplane.looking import Snapshot, workflow_view
from mycelial.kernel.canonical import short
from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import CheckSaysNo, Problem
from mycelial.reconciler.observed import Duty, Fleet
from mycelial.reconciler.plan import FleetOutcome
from mycelial.schemas.codec import DecodeError, decode, encode
from mycelial.schemas.plan import Effect
from mycelial.schemas.views import ActReply, LogsReply, PlacementView, StateChange
from mycelial.schemas.wire import CommandResult, LivePlan

ASK_SECONDS = 15.0
PROBE_SECONDS = 30.0
AT_ONCE = 32
LIVE_CACHE_MAX = 2_000
LIVE_FRESH_SECONDS = 60.0


class Acts:
    """Asks daemons, several at once, and collects what they answer."""

    def __init__(
        self,
        *,
        links: DaemonLinks,
        clock: Clock,
        chronicle: Chronicle,
        look: Callable[[], None],
    ) -> None:
        self._links = links
        self._clock = clock
        self._chronicle = chronicle
        self._look = look
        self._live: dict[tuple[str, str], LivePlan] = {}  # (spec hash, daemon id) -> plan

    async def logs(
        self, who: Principal, snapshot: Snapshot, name: str, *, daemon: str, lines: int, cursor: str
    ) -> tuple[LogsReply, ...]:
        """Return log lines by daemon. `cursor`: "shop-01=...,shop-02=..." of earlier replies."""
        who.require(Right.LOOK)
        view = workflow_view(snapshot, name)
        cursors = dict(part.partition("=")[::2] for part in cursor.split(",") if part)
        placements = self._connected(_chosen(view.placements, daemon, name), named=bool(daemon))

        async def ask(placement: PlacementView) -> LogsReply:
            args = {"uid": view.uid, "lines": lines, "cursor": cursors.get(placement.daemon, "")}
            result = await self._ask(placement.daemon_id, "logs", args)
            _require_ok(result, placement.daemon)
            found = result.value.get("lines", [])
            return LogsReply(
                daemon=placement.daemon,
                lines=tuple(line for line in found if isinstance(line, Mapping)),
                cursor=str(result.value.get("cursor", "")),
            )

        return tuple(await _at_once([ask(placement) for placement in placements]))

    async def set_state(
        self, who: Principal, snapshot: Snapshot, name: str, change: StateChange
    ) -> ActReply:
        """Make a pipeline go on from a position."""
        who.require(Right.OPERATE)
        view = workflow_view(snapshot, name)
        (placement,) = self._connected(_chosen(view.placements, change.daemon, name), named=True)
        args = {"uid": view.uid, "part": change.part, "position": change.position}
        result = await self._ask(placement.daemon_id, "state-set", args)
        _require_ok(result, placement.daemon)
        self._chronicle.record(
            "StateSet",
            f"Workflow/{name}",
            f"part {change.part} goes on from {change.position}, by {who.name}",
            severity="warning",
            daemon=placement.daemon,
        )
        return ActReply(answers={placement.daemon: "done"})

    async def retry(self, who: Principal, snapshot: Snapshot, name: str) -> ActReply:
        """Make every pipeline of a workflow leave its failure or backoff."""
        who.require(Right.OPERATE)
        view = workflow_view(snapshot, name)
        reply = await self._everywhere(
            ((p.daemon, p.daemon_id) for p in view.placements), "retry", {"uid": view.uid}
        )
        self._chronicle.record("RetryAsked", f"Workflow/{name}", f"by {who.name}")
        return reply

    async def sync(self, who: Principal, snapshot: Snapshot) -> ActReply:
        """Look at the source now, and make connected daemons resync."""
        who.require(Right.OPERATE)
        self._look()
        daemons = ((d.name, d.id) for d in snapshot.fleet.daemons.values())
        connected = [pair for pair in daemons if self._links.is_connected(pair[1])]
        return await self._everywhere(connected, "sync", {})

    async def probe(
        self, fleet: Fleet, outcome: FleetOutcome
    ) -> tuple[dict[str, LivePlan], tuple[str, ...]]:
        """Return what daemons see of the plan's changed workflows, and who could not be asked."""
        changed = {
            c.uid
            for c in outcome.plan.changes
            if not c.held and c.effect not in (Effect.DELETE, Effect.UNCHANGED)
        }
        duties = [d for d in outcome.write.duties if d.uid in changed and d.spec is not None]
        live: dict[str, LivePlan] = {}
        unknown: list[str] = []

        async def ask(duty: Duty) -> None:
            daemon = fleet.daemons.get(duty.daemon_id)
            label = f"{duty.name}@{daemon.name if daemon else duty.daemon_id}"
            if not self._links.is_connected(duty.daemon_id):
                unknown.append(f"{label}: {daemon.liveness.lower() if daemon else 'unknown'}")
                return
            found = await self._probed(duty)
            if isinstance(found, LivePlan):
                live[label] = found
            else:
                unknown.append(f"{label}: {found.code} {found.what}")

        await _at_once([ask(duty) for duty in duties])
        return dict(sorted(live.items())), tuple(sorted(unknown))

    async def _probed(self, duty: Duty) -> LivePlan | Problem:
        """Return a daemon's plan, a recent one if there is one: `made_at` tells its age."""
        key = (duty.spec_hash, duty.daemon_id)
        cached = self._live.get(key)
        if cached is not None and self._clock.now() - cached.made_at <= LIVE_FRESH_SECONDS:
            return cached
        args = {"uid": duty.uid, "spec": encode(duty.spec)}
        result = await self._links.ask(duty.daemon_id, "probe", args, timeout_seconds=PROBE_SECONDS)
        if not result.ok:
            return result.problem or Problem("MYC-CP-022", "the probe failed without a reason")
        try:
            plan = decode(LivePlan, result.value.get("plan"))
        except DecodeError as error:
            return Problem("MYC-CP-023", f"{short(duty.spec_hash)}: the answer is no plan: {error}")
        while len(self._live) >= LIVE_CACHE_MAX:
            del self._live[next(iter(self._live))]
        self._live[key] = plan
        return plan

    def _connected(
        self, placements: Iterable[PlacementView], *, named: bool
    ) -> list[PlacementView]:
        """Return those that can be asked. Raises: CheckSaysNo MYC-API-061 for none, or a named."""
        asked = list(placements)
        reachable = [p for p in asked if self._links.is_connected(p.daemon_id)]
        if not reachable or (named and len(reachable) < len(asked)):
            names = ", ".join(p.daemon for p in asked)
            raise CheckSaysNo(
                "MYC-API-061",
                f"not connected just now: {names}",
                fix="its pipelines go on; ask again when it is back: mycelial get daemons",
            )
        return reachable

    async def _everywhere(
        self, daemons: Iterable[tuple[str, str]], kind: str, args: Mapping[str, Any]
    ) -> ActReply:
        answers: dict[str, str] = {}
        failed: list[Problem] = []

        async def ask(name: str, daemon_id: str) -> None:
            if not self._links.is_connected(daemon_id):
                answers[name] = "not connected"
                return
            result = await self._ask(daemon_id, kind, args)
            answers[name] = "done" if result.ok else "failed"
            if result.problem is not None:
                failed.append(result.problem)

        await _at_once([ask(name, daemon_id) for name, daemon_id in daemons])
        return ActReply(answers=dict(sorted(answers.items())), failed=tuple(failed))

    async def _ask(self, daemon_id: str, kind: str, args: Mapping[str, Any]) -> CommandResult:
        return await self._links.ask(daemon_id, kind, args, timeout_seconds=ASK_SECONDS)


def _chosen(placements: Iterable[PlacementView], daemon: str, workflow: str) -> list[PlacementView]:
    found = [p for p in placements if not daemon or p.daemon == daemon]
    if not found:
        raise CheckSaysNo(
            "MYC-API-060",
            f"{workflow} is not placed on {daemon or 'any daemon'}",
            fix=f"see where it runs: mycelial describe wf/{workflow}",
        )
    return found


def _require_ok(result: CommandResult, daemon: str) -> None:
    if result.ok:
        return
    problem = result.problem
    raise CheckSaysNo(
        problem.code if problem else "MYC-CP-022",
        f"{daemon}: {problem.what if problem else 'it failed without a reason'}",
        fix=problem.fix if problem else "",
    )


async def _at_once(work: list[Any]) -> list[Any]:
    """Await all, at most AT_ONCE at a time, in order; the first failure cancels the rest."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> Any:
        async with limit:
            return await item

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        for item in work:
            item.close()
    return [task.result() for task in tasks]
