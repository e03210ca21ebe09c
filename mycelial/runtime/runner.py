"""Keeps one pipeline going: plans, opens sessions, waits for beats, retries, gives up.

Everything that may fail is tried in `_attend`; `run` decides by the class of the failure.
"""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mycelial.kernel.entropy import Rng
from mycelial.kernel.errors import MycelialError, Problem
from mycelial.runtime import beats
from mycelial.runtime.blame import meaning
from mycelial.runtime.context import require_connectors
from mycelial.runtime.engine import Ports, Session, WedgedPlugin, require_supported
from mycelial.runtime.inbox import Halted
from mycelial.runtime.memory import trim
from mycelial.runtime.once import Order, load_order, parts_to_read, save_order
from mycelial.runtime.plan import Build, Parts, Planned, make_plan, require_runnable
from mycelial.runtime.ports import WorkerExit, WorkerPolicy
from mycelial.runtime.retry import Trouble, next_delay
from mycelial.runtime.watch import start_watching, watched_path
from mycelial.schemas.desired import PipelineSpec
from mycelial.schemas.wire import PipelineState
from mycelial.sdk.envelope import Part
from mycelial.sdk.errors import (
    Ambiguous,
    Fenced,
    NotYet,
    Permanent,
    PluginError,
    Throttled,
    Transient,
)
from mycelial.sdk.plugin import LifecycleEvent
from mycelial.sdk.settings import Settings

IDLE_CLOSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """What a runner is given beside the ports of its sessions."""

    build: Build
    policy: WorkerPolicy
    rng: Rng
    next_fire: beats.NextFire
    post_change: Callable[[], None]
    state_dir: Path
    order: str = ""
    is_patient: bool = True


class Runner:
    """One pipeline in one worker; `run` returns when there is nothing left to do."""

    def __init__(self, spec: PipelineSpec, ports: Ports, run: Run) -> None:
        self._spec, self._ports, self._run = spec, ports, run
        self._planned: Planned | None = None
        self._trouble: Trouble | None = None
        self._units_before = 0
        self._start: Mapping[Part, int] | None = None
        self._due: float | None = None
        self._has_looked = False
        self._is_watching = False

    def run(self) -> WorkerExit:
        """Work until finished, drained, stopped or fenced. Raises: WedgedPlugin."""
        while True:
            try:
                state = self._attend()
            except Halted as halted:
                return self._end(PipelineState.STOPPED, f"ended at once: {halted.why}")
            except WedgedPlugin:
                raise
            except Exception as error:  # a supervisor: sorted by class below
                failure = self._classify(error)
                if isinstance(failure, Fenced):
                    self._ports.log.error("fenced", problem=failure.problem.what)
                    self._ports.reporter.transition(PipelineState.FAILED, error=failure.problem)
                    return WorkerExit.FENCED
                try:
                    if self._ports.orders.is_draining:
                        return self._end(PipelineState.STOPPED, "drained after a failure")
                    if isinstance(failure, Transient):
                        self._back_off(failure)
                    else:
                        self._wait_failed(failure)
                except Halted as halted:
                    return self._end(PipelineState.STOPPED, f"ended at once: {halted.why}")
                state = None
            if self._ports.orders.is_draining:
                return self._end(PipelineState.STOPPED, "drained")
            if state is not None:
                return self._end(state, "finished")
            swap = self._ports.orders.take_swap()
            if swap is not None:
                self._adopt(swap)

    def _attend(self) -> PipelineState | None:
        """Run sessions until the schedule is over (FINISHED) or the host wants a pause (None)."""
        order = self._load_order()
        if order is not None and order.done:
            return PipelineState.FINISHED
        planned = self._planned or self._plan()
        while True:
            if not self._is_due_soon():
                self._wait_until_due()  # with both ends closed
            if self._ports.orders.wants_pause:
                return None
            with self._session(planned) as session:
                order = self._begin_order(order, session)
                self._look_for_broken_run(session, planned)
                while self._is_due_soon():
                    self._wait_until_due()
                    if self._ports.orders.wants_pause or not self._beat(session):
                        break
                session.finish()
            trim()
            if self._due is None and self._start is None:
                if order is not None:
                    save_order(self._order_path, Order(order.id, order.start, done=True))
                return PipelineState.FINISHED

    def _beat(self, session: Session) -> bool:
        """Read once; False when the host broke it off.

        `_start` outlives failures, so a repeated beat skips the parts that are complete.
        """
        clock = self._ports.clock
        if self._start is None:
            self._start = {part: seq for part, (seq, _) in session.standing().items()}
        begun_at = clock.now()
        self._say_running()
        if not session.beat(parts_to_read(self._start, session.standing())):
            return False
        self._trouble, self._start = None, None
        self._due = beats.next_beat(
            self._spec.schedule,
            now=clock.now(),
            started_at=begun_at,
            next_fire=self._run.next_fire,
        )
        return True

    def _plan(self) -> Planned:
        """Look at both ends, tell the plan, refuse what is not allowed, prepare the source."""
        ports, spec = self._ports, self._spec
        require_connectors(self._run.policy, (spec.source.plugin, spec.destination.plugin))
        parts = self._run.build(spec)
        planned = make_plan(ports.ctx, spec, parts, now=ports.clock.now())
        ports.reporter.plan(planned.live)
        require_supported(planned)
        require_runnable(spec, planned)
        if spec.schedule.kind == "onChange" and not self._is_watching:
            start_watching(watched_path(ports.ctx, spec.source.config), self._run.post_change)
            self._is_watching = True
        parts.source.lifecycle(
            ports.ctx, LifecycleEvent.CREATED, None, Settings(spec.source.config)
        )
        self._planned = planned
        if not self._has_looked:
            self._due = beats.first_beat(spec.schedule, ports.clock.now(), self._run.next_fire)
        return planned

    @contextlib.contextmanager
    def _session(self, planned: Planned) -> Iterator[Session]:
        parts: Parts = self._run.build(self._spec)
        session = Session(self._spec, parts, planned, self._ports)
        try:
            session.open()
            yield session
        finally:
            session.close()

    def _wait_until_due(self) -> None:
        """Wait for the schedule, for somebody who says retry, or for a changed file."""
        ports = self._ports
        while self._start is None and self._due is not None:
            if ports.orders.halt is not None:
                raise Halted(ports.orders.halt)
            if ports.orders.take_retry() or ports.orders.take_change():
                self._due = ports.clock.now()
            left = self._due - ports.clock.now()
            if left <= 0 or ports.orders.wants_pause:
                return
            if left > IDLE_CLOSE_SECONDS:
                next_run_at = None if math.isinf(self._due) else self._due
                ports.reporter.transition(PipelineState.WAITING, next_run_at=next_run_at)
            else:
                # A short rest is part of running: a state that flickers tells nobody anything.
                self._say_running()
                ports.reporter.rested()
            ports.orders.wait(None if math.isinf(left) else left)

    def _say_running(self) -> None:
        if self._ports.reporter.state is not PipelineState.RUNNING:
            self._ports.reporter.transition(PipelineState.RUNNING)

    def _is_due_soon(self) -> bool:
        """True while the ends should be open."""
        if self._start is not None or not self._has_looked:
            return True
        return self._due is not None and self._due - self._ports.clock.now() <= IDLE_CLOSE_SECONDS

    def _look_for_broken_run(self, session: Session, planned: Planned) -> None:
        """Cron waits for its hour, unless a restart broke a snapshot run off: that goes on now."""
        if self._has_looked:
            return
        self._has_looked = True
        broken = any(seq > 0 and not ended for seq, ended in session.standing().values())
        if broken and not planned.source.incremental:
            self._due = self._ports.clock.now()

    @property
    def _order_path(self) -> Path:
        return self._run.state_dir / "once.json"

    def _load_order(self) -> Order | None:
        if self._spec.schedule.kind != "once" or not self._run.order:
            return None
        order = load_order(self._order_path)
        if order is not None and order.id == self._run.order:
            if self._start is None:
                self._start = order.start or None
            return order
        return Order(self._run.order)

    def _begin_order(self, order: Order | None, session: Session) -> Order | None:
        if order is None or order.start:
            return order
        start = {part: seq for part, (seq, _) in session.standing().items()}
        begun = Order(order.id, start)
        save_order(self._order_path, begun)
        return begun

    def _classify(self, error: Exception) -> PluginError:
        if isinstance(error, OSError):
            error = meaning(error) or error
        if isinstance(error, NotYet) and not self._run.is_patient:
            return _for_good(error.problem)
        if isinstance(error, PluginError):
            return error
        if isinstance(error, MycelialError):
            return _for_good(error.problem)
        report = "".join(traceback.format_exception(error))[-8000:]
        self._ports.log.error("unexpected exception", report=report)
        return Permanent(
            "MYC-RUN-090",
            f"a plugin or the engine raised {type(error).__name__}: {error}",
            fix="this is a defect; the pipeline's log holds the report",
        )

    def _back_off(self, failure: Transient) -> None:
        ports, clock = self._ports, self._ports.clock
        if isinstance(failure, NotYet):
            self._planned = None  # what appears may look different from what was planned
        if self._trouble is None or ports.reporter.units != self._units_before:
            self._trouble = Trouble(1, clock.monotonic())
        else:
            self._trouble = Trouble(self._trouble.failures + 1, self._trouble.since)
        self._units_before = ports.reporter.units
        told = failure.retry_after_seconds if isinstance(failure, Throttled) else None
        patience = self._spec.retry.up_to_seconds
        if not self._run.is_patient and self._trouble.is_stalled(clock.monotonic(), patience):
            self._wait_failed(failure)  # somebody waits for an answer
            return
        delay = next_delay(
            self._trouble,
            self._run.rng,
            now=clock.monotonic(),
            up_to_seconds=patience,
            told=told,
        )
        if isinstance(failure, Ambiguous) and self._trouble.failures == 1:
            delay = 0.0  # ask the destination at once what it has
        ports.log.warning(
            "will try again",
            code=failure.problem.code,
            problem=failure.problem.what,
            in_seconds=round(delay, 3),
        )
        ports.reporter.transition(
            PipelineState.RETRYING,
            error=failure.problem,
            retry_at=clock.now() + delay,
            is_stalled=self._trouble.is_stalled(clock.monotonic(), patience),
        )
        until = clock.monotonic() + delay
        while (left := until - clock.monotonic()) > 0 and not ports.orders.wants_pause:
            ports.orders.wait(left)
            if ports.orders.halt is not None:
                raise Halted(ports.orders.halt)
            ports.orders.take_change()  # the next beat reads whatever is there
            if ports.orders.take_retry():
                return

    def _wait_failed(self, failure: PluginError) -> None:
        ports = self._ports
        ports.log.error("failed", code=failure.problem.code, problem=failure.problem.what)
        ports.reporter.transition(PipelineState.FAILED, error=failure.problem)
        self._planned = None  # the world may look different when somebody says retry
        trim()
        while not ports.orders.take_retry() and not ports.orders.wants_pause:
            ports.orders.take_change()
            ports.orders.wait(None)
            if ports.orders.halt is not None:
                raise Halted(ports.orders.halt)

    def _adopt(self, spec: PipelineSpec) -> None:
        self._ports.log.info("going on with a new spec")
        self._spec, self._planned, self._trouble = spec, None, None
        self._start, self._due, self._has_looked = None, None, False

    def _end(self, state: PipelineState, why: str) -> WorkerExit:
        self._ports.log.info("worker ends", why=why)
        self._ports.reporter.transition(state)
        halt = self._ports.orders.halt
        return WorkerExit.HOST_GONE if halt == "host-gone" else WorkerExit.DONE


def _for_good(problem: Problem) -> Permanent:
    """Return the failure that ends a pipeline, with all that is known of it."""
    failure = Permanent(problem.code, problem.what, fix=problem.fix)
    failure.problem = problem
    return failure
