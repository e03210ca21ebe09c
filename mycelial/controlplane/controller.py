"""The fleet controller: source -> desired -> plan -> store -> watch streams, for ever.

Level-triggered: every trigger (a commit, a report, a timer) only asks for another look. Decisions
are `plan_fleet`'s; this file reads its inputs, persists its outcome and only then publishes (R11).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from mycelial.controlplane import lastgood
from mycelial.controlplane.chronicle import ChangeCounter, Chronicle
from mycelial.controlplane.compiling import Compiled, Compiler
from mycelial.controlplane.fleet import Roster
from mycelial.controlplane.looking import NOTHING, Snapshot
from mycelial.controlplane.threads import Lanes
from mycelial.controlplane.transitions import fleet_events, held_texts
from mycelial.controlplane.watch import HeldSet, WatchHub
from mycelial.gitops.base import ManifestSource
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng
from mycelial.kernel.errors import Conflict, MycelialError, OperationFailed, Problem, Severity
from mycelial.kernel.ports import Log
from mycelial.reconciler.loop import Handled, Loop
from mycelial.reconciler.observed import Fleet, Ledger, LedgerDelta
from mycelial.reconciler.placement import Resolve
from mycelial.reconciler.plan import FleetOutcome, plan_fleet
from mycelial.schemas.desired import DesiredState
from mycelial.schemas.wire import AssignmentSet, SignedSet
from mycelial.storage.base import Event, FleetWrite, Store

SOURCE = "source"
FLEET = "fleet"
POLL_SECONDS = 30.0
FLUSH_SECONDS = 0.5
LIVENESS_SECONDS = 1.0
CONFLICT_ATTEMPTS = 5
REVISIONS_REMEMBERED = 200


class Signs(Protocol):
    """Signs assignment sets with the reconciler's key."""

    def sign(self, assignments: AssignmentSet) -> SignedSet: ...  # noqa: D102


class FleetController:
    """Owns one source and one store. Everything but the named lanes runs on the loop's thread."""

    def __init__(
        self,
        *,
        source: ManifestSource,
        compiler: Compiler,
        store: Store,
        signer: Signs,
        resolve: Resolve,
        roster: Roster,
        hub: WatchHub,
        lanes: Lanes,
        clock: Clock,
        rng: Rng,
        chronicle: Chronicle,
        changes: ChangeCounter,
        log: Log,
    ) -> None:
        self.source = source
        self.compiler = compiler
        self.snapshot = Snapshot(source=source.name)
        self.compiled = Compiled(desired=NOTHING)
        self.quarantined: tuple[str, ...] = ()
        self.invalid: tuple[str, ...] = ()
        self.store_error: Problem | None = None
        self._store = store
        self._signer = signer
        self._resolve = resolve
        self._roster = roster
        self._hub = hub
        self._lanes = lanes
        self._clock = clock
        self._chronicle = chronicle
        self._changes = changes
        self._log = log
        self._store_id = ""
        self._ledger = Ledger()
        self._desired: DesiredState | None = None
        self._held: tuple[str, ...] = ()
        self._kept: dict[str, Any] | None = None
        self._refusal: tuple[Problem, ...] = ()  # why the head is not in force at all
        self._taken = ""  # the revision that was compiled, or refused, last
        self._planning = asyncio.Lock()  # two keys may ask for a plan at once
        self._loop: Loop[str] = Loop(
            self._reconcile, monotonic=clock.monotonic, rng=rng, on_failure=self._failed
        )

    def poke(self) -> None:
        """Ask for another look at the fleet."""
        self._loop.add(FLEET)

    def look(self) -> None:
        """Ask for another look at the source."""
        self._loop.add(SOURCE)
        self.source.wake()

    async def load(self) -> None:
        """Take over what the store remembers. Raises: OperationFailed when it cannot be read."""
        run = self._lanes.store.run
        self._store_id = await run(self._store.store_id)
        self._ledger = await run(self._store.ledger)
        records = await run(self._store.daemons)
        self._roster.load(records, await run(self._store.reports))
        sets = {}
        for record in records:
            signed = await run(self._store.signed_set, record.id)
            if signed is not None:
                sets[record.id] = HeldSet.of(signed)
        self._hub.hold(sets)
        self.quarantined = tuple(await run(self._store.get_value, "quarantined") or ())
        self.invalid = tuple(await run(self._store.get_value, "invalid") or ())
        await self._recall()
        self._publish({}, ())
        self._roster.announce(self._clock.monotonic())

    async def run(self) -> None:
        """Work until cancelled, then write down what is not written yet."""
        self._loop.add(SOURCE)
        self._loop.add(FLEET)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._loop.run(), name="controller/one")
                group.create_task(self._loop.run(), name="controller/two")
                group.create_task(self._follow_source(), name="controller/source")
                group.create_task(self._flush_for_ever(), name="controller/flush")
                group.create_task(self._judge_liveness(), name="controller/liveness")
        finally:
            self.source.wake()
            await asyncio.shield(self._flush())

    async def settle(self, revision: str, *, seconds: float) -> bool:
        """Wait until a revision has been seen and planned; tell whether it was in time."""
        return await self._until(lambda: self.snapshot.revision_seen == revision, seconds)

    async def release(self, names: Iterable[str], *, seconds: float) -> None:
        """Confirm deletions that are committed and held, and wait a while until they are begun."""
        subjects = tuple(f"{name}:" for name in names)
        await self.confirm_deletions(names)
        self.poke()
        await self._until(
            lambda: not any(text.startswith(subjects) for text in self.snapshot.held), seconds
        )

    async def _until(self, is_done: Callable[[], bool], seconds: float) -> bool:
        deadline = self._clock.monotonic() + seconds
        while not is_done():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            await self._changes.wait(self._changes.value, left)
        return True

    async def quarantine(self, revision: str) -> None:
        """Never bring a revision into force (again)."""
        self.quarantined = (*self.quarantined, revision)[-REVISIONS_REMEMBERED:]
        await self._remember("quarantined", list(self.quarantined))

    async def confirm_deletions(self, names: Iterable[str]) -> None:
        """Let the guard pass these deletions ("Workflow/x"); stored before the commit that asks."""
        wanted = frozenset(names)
        async with self._planning:
            for _ in range(CONFLICT_ATTEMPTS):
                ledger = self._ledger
                if wanted <= ledger.confirmed_deletions:
                    return
                delta = LedgerDelta(confirmed_deletions=ledger.confirmed_deletions | wanted)
                if await self._write(delta, ledger):
                    return
        raise _too_busy()

    def fleet(self, desired: DesiredState | None = None) -> Fleet:
        """Return what is observed now, with the labels of `desired`, else of what is in force."""
        desired = desired or self._desired
        daemons = desired.daemons if desired else {}
        labels = {name: daemon.labels for name, daemon in daemons.items()}
        states = self._roster.states(self._clock.monotonic(), labels)
        return Fleet(self._ledger, states, self._store_id)

    def current(self) -> Snapshot:
        """Return the snapshot with the daemons as they are now."""
        return dataclasses.replace(self.snapshot, fleet=self.fleet(), at=self._clock.now())

    # Source

    async def _reconcile(self, key: str) -> Handled:
        return await (self._look_at_source() if key == SOURCE else self._plan())

    async def _look_at_source(self) -> Handled:
        seen = self._taken or None
        head = await self._lanes.source.run(self.source.probe, seen)
        if self.snapshot.source_error is not None:
            self._chronicle.record("SourceRecovered", f"Source/{self.source.name}", head.revision)
            self._show(source_error=None)
        if head.rewritten:
            self._chronicle.record(
                "HistoryRewritten",
                f"Source/{self.source.name}",
                f"the branch no longer contains {seen}",
                severity="warning",
                revision=head.revision,
            )
        if head.revision != seen or self._desired is None:
            await self._take(head.revision)
        return Handled()

    async def _take(self, revision: str) -> None:
        """Compile a revision and bring into force what of it is good."""
        if revision in self.quarantined:
            self._tell_quarantined(revision)
            return
        compiled = await self._compile(revision)
        desired = lastgood.keep_last_good(compiled.desired, self._desired)
        await self._remember_kept(desired, compiled.desired)
        errors = [p for p in compiled.problems if p.severity is Severity.ERROR]
        if errors and revision not in self.invalid:
            self.invalid = (*self.invalid, revision)[-REVISIONS_REMEMBERED:]
            await self._remember("invalid", list(self.invalid))
            self._chronicle.record(
                "RevisionInvalid",
                f"Source/{self.source.name}",
                f"{revision}: {_first_lines(errors)}",
                severity="error",
                revision=revision,
            )
        self._desired, self.compiled = desired, compiled
        self._taken, self._refusal = revision, ()
        self._loop.add(FLEET)

    async def _compile(self, revision: str) -> Compiled:
        tree = await self._lanes.source.run(self.source.tree, revision)
        return await self._lanes.source.run(self.compiler.compile, self.source, tree)

    def _tell_quarantined(self, revision: str) -> None:
        text = f"{revision} is quarantined by a rollback; the last good revision stays"
        problem = Problem("MYC-CP-050", text, fix="commit another change on top of it")
        self._chronicle.record(
            "RevisionQuarantined",
            f"Source/{self.source.name}",
            text,
            severity="error",
            revision=revision,
        )
        self._taken, self._refusal = revision, (problem,)
        self._show(revision_seen=revision, problems=(*self.compiled.problems, problem))

    async def _recall(self) -> None:
        """Know the last good state again, should the head be broken (I8)."""
        run = self._lanes.store.run
        revision = await run(self._store.get_value, "applied_revision")
        stored = await run(self._store.get_value, "last_good")
        base = None
        if isinstance(revision, str) and revision:
            try:
                self.compiled = await self._compile(revision)
                base = self.compiled.desired
                self.snapshot = dataclasses.replace(self.snapshot, revision_applied=revision)
            except MycelialError as error:  # rewritten away, or the source is unreachable now
                self._log.warning("the last good revision cannot be read", code=error.code)
        self._desired = lastgood.recall(base, stored)
        self._kept = stored

    async def _remember_kept(self, desired: DesiredState, fresh: DesiredState) -> None:
        kept = lastgood.remembered(desired, fresh)
        has_any = bool(kept["workflows"] or kept["daemons"])
        value = kept if has_any else None
        if value != self._kept:
            await self._remember("last_good", value)
            self._kept = value

    async def _remember(self, key: str, value: Any) -> None:
        await self._lanes.store.run(self._store.set_value, key, value)

    async def _follow_source(self) -> None:
        while True:
            try:
                await self._lanes.waiting.run(self.source.wait, POLL_SECONDS)
            except MycelialError as error:
                self._log.warning("waiting for the source failed", code=error.code)
                await self._clock.pause(POLL_SECONDS)
            self._loop.add(SOURCE)

    # Fleet

    async def _plan(self) -> Handled:
        """Plan, persist, publish; once more when somebody else wrote in between (R5)."""
        desired = self._desired
        if desired is None:
            return Handled()  # nothing is known, so nothing is decided (I8)
        async with self._planning:
            for _ in range(CONFLICT_ATTEMPTS):
                taken, fleet = self._taken, self.fleet()
                outcome = await self._lanes.source.run(
                    plan_fleet, desired, fleet, self._clock.now(), self._resolve
                )
                if await self._carry_out(desired, fleet, outcome, taken):
                    return Handled(outcome.requeue_after)
        raise _too_busy()

    async def _carry_out(
        self, desired: DesiredState, fleet: Fleet, outcome: FleetOutcome, taken: str
    ) -> bool:
        """Persist, then publish; false when the ledger had moved on and nothing was done."""
        # Not on the loop: a set of a thousand assignments takes tens of milliseconds.
        sets = await self._lanes.source.run(self._sign, outcome.sets) if outcome.sets else {}
        signed = {daemon_id: held.signed for daemon_id, held in sets.items()}
        is_new = self._is_newly_applied(desired)
        events = fleet_events(outcome.plan, fleet, at=self._clock.now(), already_held=self._held)
        if not outcome.write.is_empty or signed or is_new or events:
            revision = desired.revision if is_new else None
            if not await self._write(outcome.write, fleet.ledger, signed, events, revision):
                return False
            if is_new:
                self._tell_applied(desired, outcome)
        self._hub.hold(sets)
        self._held = held_texts(outcome.plan)
        self._publish(outcome.conditions, self._held, taken)
        return True

    def _sign(self, sets: Mapping[str, AssignmentSet]) -> dict[str, HeldSet]:
        return {
            daemon_id: HeldSet(self._signer.sign(found), found.rev, found.bundle_hash())
            for daemon_id, found in sets.items()
        }

    def _is_newly_applied(self, desired: DesiredState) -> bool:
        return _is_whole(desired) and desired.revision != self.snapshot.revision_applied

    def _tell_applied(self, desired: DesiredState, outcome: FleetOutcome) -> None:
        self._show(revision_applied=desired.revision)
        carried = sum(not change.held for change in outcome.plan.changes)
        self._chronicle.record(
            "RevisionApplied",
            f"Source/{self.source.name}",
            f"{desired.revision}: {carried} changed, {outcome.plan.unchanged} unchanged",
            revision=desired.revision,
        )

    async def _write(
        self,
        delta: LedgerDelta,
        ledger: Ledger,
        signed: Mapping[str, SignedSet] | None = None,
        events: tuple[Event, ...] = (),
        applied_revision: str | None = None,
    ) -> bool:
        """Write in one transaction; false when the ledger was newer, which is then read again."""
        write = FleetWrite(
            expected_version=ledger.version,
            known=delta.known,
            duties=delta.duties,
            ended=delta.ended,
            sets=signed or {},
            revs=delta.revs,
            confirmed_deletions=delta.confirmed_deletions,
            events=events,
            applied_revision=applied_revision,
        )
        try:
            version = await self._lanes.store.run(self._store.write_fleet, write)
        except Conflict:
            self._ledger = await self._lanes.store.run(self._store.ledger)
            return False
        self._ledger = dataclasses.replace(ledger.after(delta), version=version)
        return True

    def _publish(
        self, conditions: Mapping[str, Any], held: tuple[str, ...], revision_seen: str = ""
    ) -> None:
        self._show(
            desired=self._desired or NOTHING,
            fleet=self.fleet(),
            findings=conditions,
            objects=self.compiled.objects,
            problems=(*self.compiled.problems, *self._refusal),
            held=held,
            hashes=self._hub.hashes(),
            revision_seen=revision_seen,
            at=self._clock.now(),
        )

    def _show(self, **values: Any) -> None:
        self.snapshot = dataclasses.replace(self.snapshot, **values)
        self._changes.bump()

    def _failed(self, key: str, error: Exception, delay: float | None) -> None:
        """Show a failure once, and recoveries in `_look_at_source` and `_flush`."""
        code = error.code if isinstance(error, MycelialError) else "MYC-CP-070"
        self._log.error("reconcile failed", key=key, code=code, error=str(error), retry=delay)
        if key != SOURCE:
            return
        problem = (
            error.problem
            if isinstance(error, MycelialError)
            else Problem(code, f"a bug met this revision: {type(error).__name__}: {error}")
        )
        if self.snapshot.source_error is None:
            self._chronicle.record(
                "SourceUnreachable",
                f"Source/{self.source.name}",
                f"{problem.code} {problem.what}",
                severity="error",
            )
        self._show(source_error=problem)

    # Rhythm

    async def _flush_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._chronicle.pending.wait()
            except TimeoutError:
                pass
            await self._flush()
            if self.store_error is not None:
                await self._clock.pause(FLUSH_SECONDS)

    async def _flush(self) -> None:
        """Write events and reports; what the store does not take waits for the next time."""
        events, reports = self._chronicle.take(), self._roster.take_unsaved()
        if not events and not reports:
            return
        try:
            if events:
                await self._lanes.store.run(self._store.add_events, events)
            if reports:
                await self._lanes.store.run(self._store.save_reports, reports)
        except OperationFailed as error:
            if self.store_error is None:
                self._log.error("the store does not take writes", code=error.code)
            self.store_error = error.problem
            self._chronicle.put_back(events)
            self._roster.put_back(reports)
            return
        self.store_error = None
        if events:
            self._changes.bump()

    async def _judge_liveness(self) -> None:
        while True:
            await self._clock.pause(LIVENESS_SECONDS)
            found = self._roster.announce(self._clock.monotonic())
            if found:
                self._chronicle.tell(found)
                self._changes.bump()
                self.poke()


def _is_whole(desired: DesiredState) -> bool:
    return desired.complete and not desired.blocked and bool(desired.revision)


def _too_busy() -> Conflict:
    return Conflict(
        "MYC-CP-051",
        f"the ledger was changed by others {CONFLICT_ATTEMPTS} times in a row",
        fix="nothing was done; it is tried again",
    )


def _first_lines(problems: list[Problem], limit: int = 3) -> str:
    shown = [f"{p.where or p.subject}: {p.code} {p.what}" for p in problems[:limit]]
    more = len(problems) - limit
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
