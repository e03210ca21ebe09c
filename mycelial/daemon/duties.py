"""What this machine has to run, and the loop that makes it so.

The last accepted set is on disk before anything acts on it, so a start without a control plane
runs what the last one ran. Absence from a set ends nothing (R2); a refused set changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mycelial.daemon.admission import RefusedSet, admit, recall
from mycelial.daemon.config import DaemonConfig
from mycelial.daemon.local import Accepted, Identity, LocalState
from mycelial.daemon.policy import LocalDuty, Refusal, decide, worker_policy
from mycelial.daemon.ports import SecretsOf, Supervisor
from mycelial.daemon.race import wait_for
from mycelial.daemon.reports import View, by_name, failed_set
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng
from mycelial.kernel.errors import InternalError, MycelialError, Problem
from mycelial.kernel.ports import EventSink, Log
from mycelial.reconciler import converge
from mycelial.reconciler.backoff import Backoff
from mycelial.reconciler.running import Operation, OperationKind, RunningPipeline
from mycelial.schemas.desired import Uid
from mycelial.schemas.wire import (
    Assignment,
    AssignmentSet,
    Condition,
    FailedSet,
    PipelineState,
    PipelineStatus,
    SignedSet,
    Truth,
)

RESYNC_SECONDS = 300.0
RETRY_FIRST_SECONDS = 0.75
STEP_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation that failed on our side; tried again at `retry_at` (monotonic)."""

    problem: Problem
    retry_at: float
    spec_hash: str


@dataclass(frozen=True, slots=True)
class World:
    """What the daemon's parts are built from; one value instead of nine arguments."""

    identity: Identity
    config: DaemonConfig
    local: LocalState
    supervisor: Supervisor
    secrets: SecretsOf
    clock: Clock
    rng: Rng
    log: Log
    events: EventSink


@dataclass(slots=True)
class _Held:
    """The accepted set with local policy applied."""

    record: Accepted
    content: AssignmentSet
    duties: Mapping[Uid, LocalDuty] = field(default_factory=dict)
    refused: Mapping[Uid, Refusal] = field(default_factory=dict)

    @property
    def wanted(self) -> AssignmentSet:
        """What local policy leaves of the set. What it refuses is absent, and absence ends
        nothing (R2): an earlier version that is allowed goes on."""
        return replace(
            self.content, assignments=tuple(duty.assignment for duty in self.duties.values())
        )


class Duties:
    """Holds the accepted set and converges on it. Every method but `run` may be called any time
    from the loop; `on_change` is told when something reportable may have changed."""

    def __init__(self, world: World, *, on_change: Callable[[], None]) -> None:
        self._world = world
        self._on_change = on_change
        self._held: _Held | None = None
        self._last_failed: FailedSet | None = None
        self._applied_hash = ""
        self._failures: dict[Uid, Failure] = {}
        self._backoff: Backoff[Uid] = Backoff()
        self._busy: set[Uid] = set()
        self._paused: set[Uid] = set()
        self._forgotten: set[Uid] = set()
        self._hash_given: dict[str, str] = {}  # hash with local settings -> as assigned
        self._wake = asyncio.Event()
        self._receiving = asyncio.Lock()
        self._is_ending = False

    @property
    def content(self) -> AssignmentSet | None:
        """The accepted set."""
        return self._held.content if self._held else None

    def load(self) -> None:
        """Take up the last accepted set from disk; call once, before `run`.

        Its signature is checked again: the file may have been edited while we were down.
        """
        accepted = self._world.local.accepted()
        if accepted is None:
            return
        try:
            content = recall(accepted, identity=self._world.identity)
        except RefusedSet as error:
            path = self._world.local.state_dir / "assignments.json"
            self._world.local.quarantine(path, error.problem.what)
            return
        self._hold(accepted, content)

    async def receive(self, signed: SignedSet) -> bool:
        """Verify a set, make it durable, then act on it. False when it was refused.

        Raises: OperationFailed when it cannot be persisted; nothing has changed then.
        """
        async with self._receiving:
            previous = self._held.record if self._held else None
            try:
                admitted = admit(signed, identity=self._world.identity, previous=previous)
            except RefusedSet as error:
                self._refuse(error)
                return False
            if previous is None or previous != admitted.record:
                try:
                    # R12: on disk before anybody acts, so that no restart takes less.
                    await asyncio.to_thread(self._world.local.save_accepted, admitted.record)
                except MycelialError as error:
                    self._last_failed = failed_set(
                        admitted.content.bundle_hash(), error.code, error.problem.what
                    )
                    self._on_change()
                    raise
            self._last_failed = None
            self._hold(admitted.record, admitted.content)
            self._world.log.info(
                "set accepted",
                rev=admitted.content.rev,
                bundle_hash=admitted.content.bundle_hash(),
                assignments=len(admitted.content.assignments),
                tombstones=len(admitted.content.tombstones),
            )
        self.wake()
        self._on_change()
        return True

    def wake(self) -> None:
        """Converge soon."""
        self._wake.set()

    def end(self) -> None:
        """Begin no further operation: the daemon is going down."""
        self._is_ending = True

    def clear_failure(self, uid: Uid) -> None:
        """Try a pipeline again at once, on a person's order."""
        self._failures.pop(uid, None)
        self._backoff.forget(uid)
        self.wake()

    def duty(self, uid: Uid) -> LocalDuty | None:
        """Return what is to run for `uid`, with local settings laid in."""
        return self._held.duties.get(uid) if self._held else None

    @contextlib.contextmanager
    def paused(self, uid: Uid) -> Iterator[None]:
        """Keep converge away from one pipeline while a person's order works on it."""
        self._paused.add(uid)
        try:
            yield
        finally:
            self._paused.discard(uid)
            self.wake()

    def is_busy(self, uid: Uid) -> bool:
        """Tell whether an operation on this pipeline is under way."""
        return uid in self._busy

    async def run(self) -> None:
        """Converge on every wake, and at least every five minutes (R1), until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self._step(group)
                await wait_for(self._wake, self._idle_seconds(), self._world.clock)
                # Many pipelines speak at once; one look serves them all.
                await self._world.clock.pause(STEP_SECONDS)

    def view(self, *, load: Mapping[str, float]) -> View:
        """Return what a report says now."""
        held = self._held
        if held is None:
            return View(pipelines=self._statuses(), last_failed=self._last_failed, load=load)
        return View(
            store_id=held.content.store_id,
            rev=held.content.rev,
            received_hash=held.content.bundle_hash(),
            applied_hash=self._applied_hash,
            pipelines=self._statuses(),
            tombstones_done=self._tombstones_done(held),
            last_failed=self._last_failed,
            load=load,
        )

    # -- the set ------------------------------------------------------------------------------

    def _refuse(self, error: RefusedSet) -> None:
        refused = failed_set(error.bundle_hash, error.code, error.problem.what)
        if refused != self._last_failed:
            self._last_failed = refused
            self._world.events.emit(
                "SetRefused", self._subject, f"{error.code} {error.problem.what}", severity="error"
            )
            self._on_change()

    def _hold(self, record: Accepted, content: AssignmentSet) -> None:
        running = frozenset(self._world.supervisor.running())
        verdict = decide(content.assignments, self._world.config, running=running)
        held = _Held(
            record,
            content,
            duties={duty.assignment.uid: duty for duty in verdict.duties},
            refused={item.assignment.uid: item for item in verdict.refused},
        )
        for refusal in verdict.refused:
            self._world.events.emit(
                "PolicyRefused",
                refusal.problem.subject,
                f"{refusal.problem.code} {refusal.problem.what}",
                severity="warning",
            )
        self._hash_given |= {
            duty.assignment.spec_hash: duty.given_hash
            for duty in verdict.duties
            if duty.assignment.spec_hash != duty.given_hash
        }
        self._failures = {  # a new spec may be the cure: it is tried at once
            uid: failure
            for uid, failure in self._failures.items()
            if uid in held.duties and held.duties[uid].assignment.spec_hash == failure.spec_hash
        }
        self._held = held

    # -- converging ---------------------------------------------------------------------------

    def _step(self, group: asyncio.TaskGroup) -> None:
        held = self._held
        if held is None or self._is_ending:
            return
        running = self._world.supervisor.running()
        operations = (
            *converge.converge(held.wanted, running, last_seen=held.record.seen),
            *self._left_behind(held, running),
        )
        asked = {operation.uid for operation in operations} | self._busy
        self._failures = {uid: f for uid, f in self._failures.items() if uid in asked}
        now = self._world.clock.monotonic()
        pending = False
        for operation in operations:
            failure = self._failures.get(operation.uid)
            pending = True
            if operation.uid in self._busy or operation.uid in self._paused:
                continue
            if failure is not None and failure.retry_at > now:
                continue
            # Marked before the task runs: two steps in one turn must not start it twice (R4).
            self._busy.add(operation.uid)
            group.create_task(self._carry_out(operation), name=f"{operation.name}/{operation.kind}")
        self._note_applied(held, is_settled=not (pending or self._busy or self._paused))

    def _left_behind(
        self, held: _Held, running: Mapping[Uid, RunningPipeline]
    ) -> Iterator[Operation]:
        """Yield what removes the files of pipelines that ended before this start of the daemon:
        nothing runs under their uid, so converge does not see them."""
        for stone in held.content.tombstones:
            if stone.forget and stone.uid not in running and stone.uid not in self._forgotten:
                yield Operation(
                    OperationKind.FORGET,
                    stone.uid,
                    stone.name,
                    stone.generation,
                    stone.epoch,
                    reason="its workflow was forgotten",
                )

    def _note_applied(self, held: _Held, *, is_settled: bool) -> None:
        if not is_settled or held.refused or self._failures:
            return
        applied = held.content.bundle_hash()
        if applied != self._applied_hash:
            self._applied_hash = applied
            self._on_change()

    async def _carry_out(self, operation: Operation) -> None:
        uid = operation.uid
        try:
            await self._do(operation)
            self._failures.pop(uid, None)
            self._backoff.forget(uid)
        except MycelialError as error:
            self._failed(operation, error.problem)
        except Exception as error:  # supervisor of one operation: its neighbours must go on
            self._world.log.error("operation crashed", operation=operation.kind, error=error)
            crash = InternalError(
                "MYC-DAEMON-090",
                f"{operation.kind} of {operation.name} failed: {type(error).__name__}",
                fix="look at the daemon's log, and report it with the code",
            )
            self._failed(operation, crash.problem)
        finally:
            self._busy.discard(uid)
            self.wake()
            self._on_change()

    async def _do(self, operation: Operation) -> None:
        supervisor, uid = self._world.supervisor, operation.uid
        self._world.log.info(
            "operation",
            kind=operation.kind,
            workflow=operation.name,
            generation=operation.generation,
            reason=operation.reason,
        )
        match operation.kind:
            case OperationKind.START:
                await self._start(operation)
            case OperationKind.RESTART:
                await supervisor.drain(uid, operation.deadline_seconds)
                if not self._is_ending:
                    await self._start(operation)
            case OperationKind.ADOPT:
                await supervisor.adopt(uid, operation.generation, operation.epoch, operation.name)
            case OperationKind.DRAIN:
                await supervisor.drain(uid, operation.deadline_seconds)
            case OperationKind.STOP:
                await supervisor.stop(uid)
            case OperationKind.FORGET:
                await supervisor.forget(uid)
                self._forgotten.add(uid)

    async def _start(self, operation: Operation) -> None:
        assert operation.spec is not None, "converge gives a spec with every start"
        duty = self.duty(operation.uid)
        memory_max_bytes = duty.assignment.memory_max_bytes if duty else None
        self._forgotten.discard(operation.uid)
        await self._world.supervisor.start(
            spec=operation.spec,
            name=operation.name,
            generation=operation.generation,
            epoch=operation.epoch,
            secrets=self._world.secrets,
            policy=worker_policy(self._world.config, memory_max_bytes=memory_max_bytes),
        )

    def _failed(self, operation: Operation, problem: Problem) -> None:
        uid, generation = operation.uid, operation.generation
        delay = self._backoff.next_delay(uid, self._world.rng, generation=generation)
        retry_at = self._world.clock.monotonic() + max(delay, RETRY_FIRST_SECONDS)
        self._failures[uid] = Failure(problem, retry_at, operation.spec_hash)
        self._world.events.emit(
            "OperationFailed",
            f"Workflow/{operation.name}",
            f"{problem.code} {problem.what}",
            severity="error",
        )

    def _idle_seconds(self) -> float:
        now = self._world.clock.monotonic()
        resync = RESYNC_SECONDS * self._world.rng.uniform(0.9, 1.1)
        held_up = self._busy | self._paused  # their end wakes us
        waits = (f.retry_at - now for uid, f in self._failures.items() if uid not in held_up)
        soonest = min(waits, default=resync)
        return max(0.0, min(resync, soonest))

    # -- what is reported ---------------------------------------------------------------------

    def _statuses(self) -> tuple[PipelineStatus, ...]:
        known = {status.uid: status for status in self._world.supervisor.statuses()}
        shown = {uid: self._translated(status) for uid, status in known.items()}
        held = self._held
        if held is not None:
            for uid, refusal in held.refused.items():
                shown[uid] = _refused_status(refusal, shown.get(uid))
            for uid, failure in self._failures.items():
                duty = held.duties.get(uid)
                if duty is not None:
                    shown[uid] = self._failing_status(duty.assignment, failure, shown.get(uid))
        return by_name(shown.values())

    def _translated(self, status: PipelineStatus) -> PipelineStatus:
        """Name a spec as the control plane does, without this machine's endpoint settings."""
        given = self._hash_given.get(status.spec_hash, status.spec_hash)
        return status if given == status.spec_hash else replace(status, spec_hash=given)

    def _failing_status(
        self, assignment: Assignment, failure: Failure, known: PipelineStatus | None
    ) -> PipelineStatus:
        if known is not None:
            return replace(known, error=known.error or failure.problem)
        clock = self._world.clock
        return replace(
            _absent(assignment, PipelineState.RETRYING, failure.problem),
            retry_at=clock.now() + max(0.0, failure.retry_at - clock.monotonic()),
        )

    def _tombstones_done(self, held: _Held) -> tuple[Uid, ...]:
        done = set(converge.tombstones_done(held.content, self._world.supervisor.running()))
        done -= self._busy
        done -= {t.uid for t in held.content.tombstones if t.forget} - self._forgotten
        return tuple(sorted(done))

    @property
    def _subject(self) -> str:
        return f"Daemon/{self._world.identity.name}"


def _absent(assignment: Assignment, state: PipelineState, problem: Problem) -> PipelineStatus:
    return PipelineStatus(
        uid=assignment.uid,
        name=assignment.name,
        generation=assignment.generation,
        observed_generation=assignment.generation,
        epoch=assignment.epoch,
        attempt=0,
        spec_hash="",
        state=state,
        error=problem,
    )


def _refused_status(refusal: Refusal, known: PipelineStatus | None) -> PipelineStatus:
    """Return a status that says no; an earlier version that still runs keeps its own state."""
    problem, assignment = refusal.problem, refusal.assignment
    condition = Condition(
        type="Applied",
        status=Truth.FALSE,
        reason="PolicyRefused",
        message=problem.what,
        observed_generation=assignment.generation,
    )
    base = known or _absent(assignment, PipelineState.FAILED, problem)
    others = tuple(item for item in base.conditions if item.type != "Applied")
    return replace(
        base,
        observed_generation=assignment.generation,
        conditions=(*others, condition),
        error=problem,
    )
