"""One pipeline as the daemon sees it: what it was told, what its worker says, what to report."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Problem
from mycelial.runtime.ports import WorkerMessage, WorkerPolicy, WorkerStatus
from mycelial.schemas.desired import PipelineSpec, Uid
from mycelial.schemas.wire import (
    Condition,
    Counters,
    LivePlan,
    PipelineState,
    PipelineStatus,
    Truth,
)

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

Secrets = Callable[[PipelineSpec], Mapping[str, str]]


def directory_of(state_dir: Path, uid: Uid) -> Path:
    """Return the directory of a pipeline. A uid that is no plain name is digested, so that no
    two share one and none leads elsewhere."""
    name = uid.replace("sha256:", "")
    if _UNSAFE.search(name) or name.strip(".") == "" or len(name) > 128:
        name = digest(uid).removeprefix("sha256:")
    return state_dir / "pipelines" / name


@dataclass(slots=True)
class Memory:
    """What is kept over restarts of worker and daemon. Losing it costs figures, never rows."""

    counters: Counters = field(default_factory=Counters)
    orders: int = 0  # how many times somebody asked a finished `once` pipeline to run again

    @classmethod
    def load(cls, path: Path) -> Memory:
        """Read it; zeros when it is missing or broken."""
        try:
            data = json.loads(path.read_bytes())
            known = {f.name: int(data["counters"].get(f.name, 0)) for f in fields(Counters)}
            return cls(Counters(**known), int(data.get("orders", 0)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, path: Path) -> None:
        """Write it whole; not fsynced, it is not worth a disk's time."""
        counters = {f.name: getattr(self.counters, f.name) for f in fields(Counters)}
        temporary = path.with_name(f".{path.name}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({"counters": counters, "orders": self.orders}))
            temporary.replace(path)


@dataclass(slots=True)
class Supervised:
    """Mutated by the supervisor's tasks only, on the daemon's loop."""

    spec: PipelineSpec
    name: str
    generation: int
    epoch: int
    spec_hash: str
    secrets: Secrets
    policy: WorkerPolicy
    directory: Path
    memory: Memory
    attempt: int = 0
    state: PipelineState = PipelineState.STARTING
    since: float = 0.0
    told: WorkerStatus | None = None
    plan: LivePlan | None = None
    error: Problem | None = None
    retry_at: float | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def uid(self) -> Uid:
        """The pipeline's identity."""
        return self.spec.uid

    @property
    def log_path(self) -> Path:
        """Where its worker logs."""
        return self.directory / "log"

    @property
    def memory_path(self) -> Path:
        """Where its counters are kept."""
        return self.directory / "counters"

    @property
    def units_kept(self) -> int:
        """Units committed by the workers that have ended."""
        return self.memory.counters.units_committed

    def absorb(self, message: WorkerMessage, now: float) -> bool:
        """Take in what the worker says; True when the daemon's report changes in kind."""
        if message.plan is not None:
            self.plan = message.plan
        status = message.status
        if status is None:
            return message.plan is not None
        self.told = status
        return self.enter(status.state, now, error=status.error, retry_at=status.retry_at)

    def enter(
        self,
        state: PipelineState,
        now: float,
        *,
        error: Problem | None = None,
        retry_at: float | None = None,
    ) -> bool:
        """Note a state; True when state, error or conditions differ from before."""
        before = (self.state, self.error, self.conditions)
        if state is not self.state or not self.since:
            self.since = now
        self.state, self.error, self.retry_at = state, error, retry_at
        stalled = bool(self.told and self.told.is_stalled and state is PipelineState.RETRYING)
        fresh = conditions_of(state, error, is_stalled=stalled)
        self.conditions = _carry_over(self.conditions, fresh, now, self.generation)
        return before != (self.state, self.error, self.conditions)

    def fold(self, *, crashed: bool) -> None:
        """Add an ended worker's counters to what is kept."""
        self.memory.counters = self._totals(restarts=1 if crashed else 0)
        if self.told is not None:
            self.told = WorkerStatus(
                self.told.state, positions=self.told.positions, lag_seconds=self.told.lag_seconds
            )
        self.memory.save(self.memory_path)

    def status(self) -> PipelineStatus:
        """Return the pipeline as reported."""
        told = self.told or WorkerStatus(self.state)
        return PipelineStatus(
            uid=self.uid,
            name=self.name,
            generation=self.generation,
            observed_generation=self.generation,
            epoch=self.epoch,
            attempt=self.attempt,
            spec_hash=self.spec_hash,
            state=self.state,
            conditions=self.conditions,
            counters=self._totals(),
            positions=told.positions,
            rows_per_second=told.rows_per_second,
            lag_seconds=told.lag_seconds,
            guarantee=self.plan.guarantee if self.plan else "",
            retry_at=self.retry_at,
            error=self.error,
            since=self.since,
        )

    def _totals(self, restarts: int = 0) -> Counters:
        kept, now = self.memory.counters, self.told.counters if self.told else Counters()
        return Counters(
            rows_read=kept.rows_read + now.rows_read,
            rows_committed=kept.rows_committed + now.rows_committed,
            bytes_committed=kept.bytes_committed + now.bytes_committed,
            units_committed=kept.units_committed + now.units_committed,
            rows_rejected=kept.rows_rejected + now.rows_rejected,
            restarts=kept.restarts + restarts,
        )


def conditions_of(
    state: PipelineState, error: Problem | None, *, is_stalled: bool
) -> tuple[Condition, ...]:
    """Return Healthy and Stalled for a state. Pure; transitions are dated by the caller."""
    why = error.what if error else ""
    reason = str(state).capitalize()
    match state:
        case PipelineState.RUNNING | PipelineState.WAITING | PipelineState.FINISHED:
            healthy = Condition("Healthy", Truth.TRUE, reason)
        case PipelineState.DRAINING:
            healthy = Condition("Healthy", Truth.TRUE, reason)
        case PipelineState.RETRYING | PipelineState.FAILED:
            healthy = Condition("Healthy", Truth.FALSE, reason, why)
        case PipelineState.STOPPED:
            healthy = Condition("Healthy", Truth.FALSE, reason, "the pipeline was stopped")
        case PipelineState.STARTING:
            healthy = Condition("Healthy", Truth.UNKNOWN, reason)
    if state is PipelineState.FAILED:
        stalled = Condition("Stalled", Truth.TRUE, "Failed", why)
    elif is_stalled:
        stalled = Condition("Stalled", Truth.TRUE, "RetriesExhausted", why)
    else:
        stalled = Condition("Stalled", Truth.FALSE, "Progressing")
    return healthy, stalled


def _carry_over(
    before: tuple[Condition, ...], fresh: tuple[Condition, ...], now: float, generation: int
) -> tuple[Condition, ...]:
    dated = {condition.type: condition for condition in before}
    result = []
    for condition in fresh:
        old = dated.get(condition.type)
        same = old is not None and old.status is condition.status
        at = old.last_transition if old is not None and same else now
        result.append(
            Condition(
                condition.type,
                condition.status,
                condition.reason,
                condition.message,
                at,
                generation,
            )
        )
    return tuple(result)
