"""Runs one pipeline in a worker child of a plain synchronous process: `mycelial run`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mycelial.kernel.errors import OperationFailed, Problem
from mycelial.runtime.launcher import Launcher, WorkerHandle, control_line, request_line
from mycelial.runtime.ports import (
    Control,
    WorkerMessage,
    WorkerRequest,
    WorkerStatus,
)
from mycelial.runtime.spawn import SpawnedWorker, SpawnLauncher
from mycelial.schemas.codec import decode
from mycelial.schemas.wire import LivePlan, PipelineState

DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `state` FINISHED or STOPPED is an orderly end; FAILED carries a problem."""

    state: PipelineState
    status: WorkerStatus | None
    plan: LivePlan | None
    problem: Problem | None
    exit_code: int | None
    result: WorkerMessage | None = None


def prestart(launcher: SpawnLauncher | None = None) -> SpawnedWorker:
    """Start a worker that loads Arrow and ADBC while the caller still parses its manifest.

    Give it to `run_foreground`; otherwise `close` it, upon which it ends.
    """
    return (launcher or SpawnLauncher()).prestart("--warm")


def run_foreground(
    request: WorkerRequest,
    *,
    launcher: Launcher | None = None,
    prestarted: SpawnedWorker | None = None,
    on_status: Callable[[WorkerStatus], None] = lambda _: None,
    on_plan: Callable[[LivePlan], None] = lambda _: None,
    stop_event: threading.Event | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> Outcome:
    """Run a request to its end. Setting `stop_event` (from a signal handler) drains it.

    A failure that no retry will mend ends it; a transient one is retried until the event is set.
    """
    worker: WorkerHandle
    if prestarted is not None:
        worker = prestarted
        worker.send(request_line(request))
    else:
        worker = (launcher or SpawnLauncher()).start(request)
    over = threading.Event()
    if stop_event is not None:
        _drain_on(stop_event, over, worker, drain_seconds)
    try:
        return _follow(worker, on_status, on_plan)
    finally:
        over.set()
        if worker.wait(0.0) is None:
            worker.kill()
            worker.wait(5.0)
        worker.close()


def _follow(
    worker: WorkerHandle,
    on_status: Callable[[WorkerStatus], None],
    on_plan: Callable[[LivePlan], None],
) -> Outcome:
    status: WorkerStatus | None = None
    plan: LivePlan | None = None
    problem: Problem | None = None
    result: WorkerMessage | None = None
    for message in _messages(worker.out_fd):
        if message.plan is not None:
            plan = message.plan
            on_plan(plan)
        if message.status is not None:
            status = message.status if problem is None else status
            on_status(message.status)
            if message.status.state is PipelineState.FAILED and problem is None:
                problem, status = message.status.error, message.status
                _send(worker, Control("stop"))
        if message.type == "result":
            result, problem = message, message.problem
        if message.type == "exit" and message.problem is not None:
            problem = message.problem
    code = worker.wait(10.0)
    state = status.state if status else PipelineState.STOPPED
    if problem is None and code != 0:
        problem = Problem(
            code="MYC-RUN-067",
            what=f"the worker process was lost: it ended with {code}",
            fix="run it again: it goes on from the last committed position",
        )
    if problem is not None:
        state = PipelineState.FAILED
    return Outcome(state, status, plan, problem, code, result)


def _messages(fd: int) -> Iterator[WorkerMessage]:
    with os.fdopen(os.dup(fd), "rb") as pipe:
        for line in pipe:
            yield decode(WorkerMessage, json.loads(line))


def _drain_on(
    stop_event: threading.Event, over: threading.Event, worker: WorkerHandle, seconds: float
) -> None:
    def run() -> None:
        stop_event.wait()
        if not over.is_set():
            _send(worker, Control("drain", deadline_seconds=seconds))

    threading.Thread(target=run, name="drain", daemon=True).start()


def _send(worker: WorkerHandle, control: Control) -> None:
    try:
        worker.send(control_line(control))
    except OperationFailed:
        return  # it has ended by itself, which is all that was asked
