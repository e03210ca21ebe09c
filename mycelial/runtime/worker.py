"""The worker process: one request in, messages out, one exit code.

Threads: main writes and commits; `read` reads and transforms; `control` hears the host; `report`
speaks to it; `memory` watches the cap when there is one. No event loop, no pydantic.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng
from mycelial.kernel.errors import MycelialError, Problem, StateCorrupt
from mycelial.kernel.files import make_private_dir
from mycelial.kernel.ports import Log, NullLog
from mycelial.runtime.context import SecretBox, WorkerContext, require_connectors
from mycelial.runtime.engine import Ports, WedgedPlugin
from mycelial.runtime.faults import Faults
from mycelial.runtime.inbox import Inbox
from mycelial.runtime.journal import Entry, Journal, quarantine
from mycelial.runtime.memory import start_watchdog
from mycelial.runtime.outbox import Outbox
from mycelial.runtime.pipelog import PipeLog
from mycelial.runtime.plan import build_parts, make_plan, require_runnable
from mycelial.runtime.ports import WorkerExit, WorkerMessage, WorkerRequest
from mycelial.runtime.reporter import Reporter
from mycelial.runtime.runner import Run, Runner
from mycelial.runtime.units import bounds_for, limits_for
from mycelial.schemas.codec import decode
from mycelial.schemas.desired import PipelineSpec, PluginUse, Schedule
from mycelial.schemas.wire import PipelineState
from mycelial.sdk.envelope import Checkpoint, FenceToken, Part, Position
from mycelial.sdk.errors import PluginError
from mycelial.sdk.plugin import LifecycleEvent, Source
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings

HOST_GONE_GRACE_SECONDS = 5.0
RegistryOf = Callable[[Iterable[str]], Registry]


class Worker:
    """Everything one request needs, built once; `work` does the job and returns the exit code."""

    def __init__(
        self,
        request: WorkerRequest,
        *,
        inbox: Inbox,
        outbox: Outbox,
        registry: Registry,
        secrets: SecretBox,
        faults: Faults,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._request, self._inbox, self._outbox = request, inbox, outbox
        self._registry, self._faults, self._clock, self._rng = registry, faults, clock, rng
        self._state_dir = Path(request.state_dir)
        make_private_dir(self._state_dir)
        self._log = _open_log(request, clock, secrets)
        self._reporter = Reporter(outbox, clock, self._log)
        spec = request.spec
        self._ctx = WorkerContext(
            policy=request.policy,
            secrets=secrets,
            log=self._log,
            clock=clock,
            state_dir=self._state_dir,
            limits=limits_for(bounds_for(spec.delivery, None), spec.rate_rows_per_second),
        )
        self._fence = FenceToken(request.fence.epoch, request.fence.attempt)

    def work(self) -> WorkerExit:
        """Do the job."""
        match self._request.job:
            case "run":
                return self._run()
            case "probe":
                return self._answer(self._probe)
            case "state-set":
                return self._answer(self._set_state)
            case "lifecycle":
                return self._answer(self._lifecycle)

    def _run(self) -> WorkerExit:
        cap = self._request.policy.memory_max_bytes
        if cap is not None:
            start_watchdog(cap, self._over_memory)
        journal = self._open_journal()
        ports = Ports(
            ctx=self._ctx,
            fence=self._fence,
            journal=journal,
            orders=self._inbox,
            reporter=self._reporter,
            clock=self._clock,
            faults=self._faults,
            log=self._log,
        )
        run = Run(
            build=lambda spec: build_parts(self._registry, spec),
            policy=self._request.policy,
            rng=self._rng,
            next_fire=_next_fire,
            post_change=self._inbox.post_change,
            state_dir=self._state_dir,
            order=self._request.order,
            is_patient=self._request.patient,
        )
        self._log.info("worker starts", epoch=self._fence.epoch, attempt=self._fence.attempt)
        try:
            return Runner(self._request.spec, ports, run).run()
        except WedgedPlugin as wedged:
            self._log.error("wedged", problem=str(wedged))
            return WorkerExit.BUG
        finally:
            journal.close()

    def _answer(self, job: Callable[[], WorkerMessage]) -> WorkerExit:
        """Run a job that ends with one result, whatever happens."""
        try:
            self._outbox.send(job())
        except (PluginError, MycelialError) as error:
            self._outbox.send(WorkerMessage("result", problem=error.problem))
        except Exception as error:  # a plugin's defect is the job's result
            self._log.error("unexpected exception", error=repr(error))
            self._outbox.send(
                WorkerMessage("result", problem=_defect(error, f"during {self._request.job}"))
            )
        return WorkerExit.DONE

    def _probe(self) -> WorkerMessage:
        spec = self._request.spec
        require_connectors(self._request.policy, (spec.source.plugin, spec.destination.plugin))
        parts = build_parts(self._registry, spec)
        planned = make_plan(self._ctx, spec, parts, now=self._clock.now())
        try:
            require_runnable(spec, planned)
        except PluginError as error:
            return WorkerMessage("result", plan=planned.live, problem=error.problem)
        return WorkerMessage("result", plan=planned.live)

    def _set_state(self) -> WorkerMessage:
        """Store a position on a person's order, in the destination and then in the journal."""
        request = self._request
        part, position = Part(request.part), Position(request.position)
        parts = build_parts(self._registry, request.spec)
        self._probe_position(parts.source, part, position)
        destination, journal = parts.destination, self._open_journal()
        try:
            held = destination.open(self._ctx, request.spec.scope, self._fence).get(part)
            entry = journal.latest.get((request.spec.scope, part))
            seq = 1 + max(held.seq if held else 0, entry.seq if entry else 0)
            destination.set_position(
                Checkpoint(request.spec.scope, part, self._fence, seq, position, rows=0)
            )
            journal.append(Entry(request.spec.scope, part, seq, position, self._fence, 0))
        finally:
            journal.close()
            destination.close()
        self._reporter.event("StateSet", f"part {part}: the position was set by hand")
        return WorkerMessage("result", value={"part": part, "seq": seq, "position": position})

    def _probe_position(self, source: Source, part: Part, position: Position) -> None:
        """Let the source read from the position to itself, which is nothing: one it does not
        understand is refused before it is stored. A source that reads once is left alone.
        """
        if not source.plan(self._ctx).replayable:
            return
        source.open(self._ctx)
        try:
            next(iter(source.read(part, position, position)), None)
        finally:
            source.close()

    def _lifecycle(self) -> WorkerMessage:
        spec = self._request.spec
        source = build_parts(self._registry, spec).source
        event = LifecycleEvent(self._request.event)
        settings = Settings(spec.source.config)
        is_gone = event is LifecycleEvent.DELETED
        source.lifecycle(
            self._ctx, event, settings if is_gone else None, None if is_gone else settings
        )
        return WorkerMessage("result")

    def _open_journal(self) -> Journal:
        path = self._state_dir / "journal"
        try:
            return Journal(path)
        except StateCorrupt as corrupt:
            aside = quarantine(path)
            self._reporter.event(
                "JournalCorrupt",
                f"{corrupt.problem.what}; set aside as {aside.name}, the destination decides",
                severity="warning",
            )
            return Journal(path)

    def _over_memory(self, problem: Problem) -> None:
        self._log.error("over its memory limit", problem=problem.what)
        self._reporter.transition(PipelineState.FAILED, error=problem)
        self._outbox.close(2.0)
        os._exit(WorkerExit.OVER_MEMORY)


def work(
    *,
    in_fd: int,
    out_fd: int,
    registry_of: RegistryOf,
    faults: Faults,
    clock: Clock,
    rng: Rng,
) -> WorkerExit:
    """Serve one request. The caller ends the process with the returned code, threads and all."""
    inbox = Inbox(in_fd, _exit_after_grace)
    line = inbox.read_line()
    if not line:
        return WorkerExit.HOST_GONE
    request = decode(WorkerRequest, json.loads(line))
    secrets = SecretBox(request.secrets)
    outbox = Outbox(out_fd, clock, secrets.scrub)
    inbox.listen()
    try:
        worker = Worker(
            request,
            inbox=inbox,
            outbox=outbox,
            registry=registry_of(_plugins_of(request.spec)),
            secrets=secrets,
            faults=faults,
            clock=clock,
            rng=rng,
        )
        code = worker.work()
    except Exception as error:  # the last line of defence tells before it ends
        problem = _defect(error, "in the worker")
        if isinstance(error, MycelialError | PluginError):
            problem = error.problem
        outbox.send(WorkerMessage("exit", problem=problem, value={"code": int(WorkerExit.BUG)}))
        code = WorkerExit.BUG
    else:
        outbox.send(WorkerMessage("exit", value={"code": int(code)}))
    outbox.close()
    return code


def _plugins_of(spec: PipelineSpec) -> tuple[str, ...]:
    uses: tuple[PluginUse, ...] = (spec.source, spec.destination, *spec.transforms)
    return tuple(dict.fromkeys(use.plugin for use in uses))


def _open_log(request: WorkerRequest, clock: Clock, secrets: SecretBox) -> Log:
    if not request.log_path:
        return NullLog()
    return PipeLog(Path(request.log_path), clock, scrub=secrets.scrub)


def _defect(error: Exception, where: str) -> Problem:
    return Problem(
        code="MYC-RUN-090",
        what=f"{type(error).__name__} {where}: {error}",
        fix="this is a defect; report it with the pipeline's log",
    )


def _next_fire(schedule: Schedule, after: float) -> float | None:
    # Imported here: only cron pipelines pay for the schedule library.
    from mycelial.schemas.schedule import next_fire

    return next_fire(schedule, after=after, start=after)


def _exit_after_grace(commit_lock: threading.Lock) -> None:
    """End an orphan whose plugin does not let go, but never inside a commit (I6)."""

    def end() -> None:
        with commit_lock:
            os._exit(WorkerExit.HOST_GONE)

    timer = threading.Timer(HOST_GONE_GRACE_SECONDS, end)
    timer.daemon = True
    timer.start()
