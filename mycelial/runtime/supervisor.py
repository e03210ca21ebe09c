"""Keeps the daemon's workers going: starts them, hears them, starts crashed ones again.

Runs on the daemon's event loop; loads no Arrow, no pydantic and no driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng
from mycelial.kernel.errors import MycelialError, OperationFailed, Problem
from mycelial.kernel.files import make_private_dir
from mycelial.kernel.ports import EventSink, Log, NullEvents
from mycelial.reconciler.running import RunningPipeline
from mycelial.runtime.attempt import raise_attempt
from mycelial.runtime.blame import meaning
from mycelial.runtime.launcher import Launcher, WorkerHandle, control_line
from mycelial.runtime.lines import read_lines
from mycelial.runtime.pipelog import tail
from mycelial.runtime.ports import (
    Control,
    WorkerExit,
    WorkerMessage,
    WorkerPolicy,
    WorkerRequest,
)
from mycelial.runtime.retry import full_jitter
from mycelial.runtime.supervised import Memory, Secrets, Supervised, directory_of
from mycelial.schemas.codec import DecodeError, decode
from mycelial.schemas.desired import PipelineSpec, Uid
from mycelial.schemas.wire import Fence, PipelineState, PipelineStatus, spec_hash_of

STOP_GRACE_SECONDS = 5.0
CRASH_FIRST_SECONDS, CRASH_LONGEST_SECONDS = 0.5, 60.0
CALM_SECONDS = 60.0
SAVE_EVERY_SECONDS = 60.0
ENDED = frozenset({PipelineState.STOPPED, PipelineState.FINISHED, PipelineState.FAILED})


@dataclass(slots=True)
class _Slot:
    """A pipeline with its task. `wanted` turns False when it is to end."""

    pipeline: Supervised
    wanted: bool = True
    worker: WorkerHandle | None = None
    ending: Control | None = None  # what a worker that is only being started has to be told
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    saved_at: float = 0.0


class Supervisor:
    """Owns the launcher, the workers and their pipes."""

    def __init__(
        self,
        *,
        launcher: Launcher,
        state_dir: Path,
        clock: Clock,
        rng: Rng,
        log: Log,
        on_change: Callable[[Uid], None],
        events: EventSink | None = None,
    ) -> None:
        self._launcher, self._state_dir = launcher, state_dir
        self._clock, self._rng, self._log = clock, rng, log
        self._on_change, self._events = on_change, events or NullEvents()
        self._slots: dict[Uid, _Slot] = {}
        self._locks: dict[Uid, asyncio.Lock] = {}
        self._group: asyncio.TaskGroup | None = None
        self._is_up = asyncio.Event()

    async def run(self) -> None:
        """Own the tasks until cancelled; then stop every worker (I6)."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._is_up.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self._is_up.clear()
                    async with asyncio.timeout(STOP_GRACE_SECONDS * 3):
                        await self._stop_all()
        finally:
            self._group = None
            for slot in self._slots.values():
                if slot.worker is not None:
                    slot.worker.kill()
            await asyncio.to_thread(self._launcher.close)

    async def start(
        self,
        *,
        spec: PipelineSpec,
        name: str,
        generation: int,
        epoch: int,
        secrets: Secrets,
        policy: WorkerPolicy,
    ) -> None:
        """Start a pipeline, ending first whatever runs under its uid. Returns once it is under
        way; what becomes of it is in its status."""
        await self._is_up.wait()
        async with self._lock(spec.uid):
            await self._end(spec.uid, Control("stop"), STOP_GRACE_SECONDS)
            directory = directory_of(self._state_dir, spec.uid)
            await asyncio.to_thread(make_private_dir, directory)
            old = self._slots.get(spec.uid)
            pipeline = Supervised(
                spec=spec,
                name=name,
                generation=generation,
                epoch=epoch,
                spec_hash=spec_hash_of(spec),
                secrets=secrets,
                policy=policy,
                directory=directory,
                memory=await asyncio.to_thread(Memory.load, directory / "counters"),
            )
            if old is not None and old.pipeline.told is not None:
                pipeline.told = old.pipeline.told
            self._launch(pipeline)

    async def drain(self, uid: Uid, deadline_seconds: float) -> None:
        """Let a pipeline commit what is in flight and end; kill it past the deadline."""
        async with self._lock(uid):
            control = Control("drain", deadline_seconds=deadline_seconds)
            await self._end(uid, control, deadline_seconds + STOP_GRACE_SECONDS)

    async def stop(self, uid: Uid) -> None:
        """End a pipeline now; its open unit is dropped and will be read again."""
        async with self._lock(uid):
            await self._end(uid, Control("stop"), STOP_GRACE_SECONDS)

    async def adopt(self, uid: Uid, generation: int, epoch: int, name: str) -> None:
        """Note newer labels of an unchanged spec; the worker is not touched."""
        slot = self._slots.get(uid)
        if slot is not None:
            pipeline = slot.pipeline
            pipeline.generation, pipeline.epoch, pipeline.name = generation, epoch, name
            pipeline.enter(
                pipeline.state, self._clock.now(), error=pipeline.error, retry_at=pipeline.retry_at
            )
            self._on_change(uid)

    async def forget(self, uid: Uid) -> None:
        """End a pipeline and remove its local state."""
        async with self._lock(uid):
            await self._end(uid, Control("stop"), STOP_GRACE_SECONDS)
            self._slots.pop(uid, None)
            directory = directory_of(self._state_dir, uid)
            if directory.exists():
                await asyncio.to_thread(shutil.rmtree, directory)
        self._on_change(uid)

    async def retry(self, uid: Uid) -> None:
        """Leave a backoff, a failure or a wait at once; run a finished pipeline again."""
        slot = self._slots.get(uid)
        if slot is None:
            return
        if slot.worker is not None:
            await self._tell(slot.worker, Control("retry"))
        elif slot.ended.is_set():
            if slot.pipeline.state is PipelineState.FINISHED:
                slot.pipeline.memory.orders += 1
                await asyncio.to_thread(slot.pipeline.memory.save, slot.pipeline.memory_path)
            self._launch(slot.pipeline)
        else:
            slot.nudge.set()

    async def job(self, request: WorkerRequest, timeout_seconds: float) -> WorkerMessage:
        """Run a probe, state-set or lifecycle in a worker of its own and return its result.

        A state-set ends the running pipeline first and starts it again afterwards: two writers
        of one checkpoint would only fence each other. Raises: OperationFailed.
        """
        uid = request.spec.uid
        if request.job != "state-set":
            return await self._work_off(request, timeout_seconds)
        async with self._lock(uid):
            slot = self._slots.get(uid)
            was_running = slot is not None and not slot.ended.is_set()
            await self._end(uid, Control("stop"), STOP_GRACE_SECONDS)
            try:
                return await self._work_off(request, timeout_seconds)
            finally:
                if slot is not None and was_running and self._is_up.is_set():
                    self._launch(slot.pipeline)

    def running(self) -> Mapping[Uid, RunningPipeline]:
        """Return every pipeline this supervisor has started and not forgotten."""
        return {uid: _running(slot) for uid, slot in self._slots.items()}

    def statuses(self) -> tuple[PipelineStatus, ...]:
        """Return what to report, by name."""
        found = (slot.pipeline.status() for slot in self._slots.values())
        return tuple(sorted(found, key=lambda status: (status.name, status.uid)))

    def log_tail(
        self, uid: Uid, lines: int, cursor: str = ""
    ) -> tuple[tuple[dict[str, Any], ...], str]:
        """Return the newest lines of a pipeline's log, and a cursor to ask for later ones."""
        return tail(directory_of(self._state_dir, uid) / "log", lines, cursor)

    def _lock(self, uid: Uid) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())

    def _launch(self, pipeline: Supervised) -> None:
        if self._group is None:
            raise OperationFailed("MYC-RUN-064", "the supervisor is not running")
        slot = self._slots[pipeline.uid] = _Slot(pipeline)
        pipeline.enter(PipelineState.STARTING, self._clock.now())
        self._group.create_task(self._keep(slot), name=f"{pipeline.name}/worker")
        self._on_change(pipeline.uid)

    async def _keep(self, slot: _Slot) -> None:
        """Run workers, one after the other, until the pipeline is to end or has ended."""
        pipeline, crashes = slot.pipeline, 0
        try:
            while slot.wanted:
                begun, units = self._clock.monotonic(), pipeline.units_kept
                code = await self._run_worker(slot)
                if self._has_ended(slot, code):
                    return
                # A worker that got ahead was no hopeless start: its successor need not wait long.
                got_ahead = pipeline.units_kept > units
                calm = self._clock.monotonic() - begun >= CALM_SECONDS
                crashes = 1 if calm or got_ahead else crashes + 1
                await self._wait_after_crash(slot, code, crashes)
        except MycelialError as error:
            self._enter(slot, PipelineState.FAILED, error=error.problem)
        except Exception as error:  # a supervisor: one pipeline's trouble is not the others'
            self._log.error("supervision failed", pipeline=pipeline.name, error=repr(error))
            self._enter(slot, PipelineState.FAILED, error=_lost(repr(error)))
        finally:
            slot.worker = None
            slot.ended.set()
            if not slot.wanted and pipeline.state not in ENDED:
                self._enter(slot, PipelineState.STOPPED)

    async def _run_worker(self, slot: _Slot) -> int:
        """Start one worker, hear it to its end, and return its exit code."""
        pipeline = slot.pipeline
        secrets = pipeline.secrets(pipeline.spec)
        try:
            pipeline.attempt = await asyncio.to_thread(
                raise_attempt, pipeline.directory / "attempt"
            )
        except OSError as error:  # a full disk has room again some day, without anybody's retry
            meant = meaning(error)
            pipeline.error = meant.problem if meant else _lost(f"it cannot be numbered: {error}")
            return -1
        request = WorkerRequest(
            job="run",
            spec=pipeline.spec,
            fence=Fence(pipeline.epoch, pipeline.attempt),
            state_dir=str(pipeline.directory),
            log_path=str(pipeline.log_path),
            secrets=secrets,
            policy=pipeline.policy,
            generation=pipeline.generation,
            order=f"{pipeline.spec_hash}#{pipeline.memory.orders}",
        )
        try:
            worker = await asyncio.to_thread(self._launcher.start, request)
        except OperationFailed as error:
            self._log.error("cannot start a worker", pipeline=pipeline.name, problem=error.problem)
            pipeline.error = error.problem
            return -1
        slot.worker = worker
        try:
            if slot.ending is not None:  # it was to end before there was anybody to tell
                await self._tell(worker, slot.ending)
            async for line in read_lines(worker.out_fd):
                self._hear(slot, line)
            code = await asyncio.to_thread(worker.wait, STOP_GRACE_SECONDS)
            if code is None:  # it closed its mouth but lives: its end is all that is left to do
                worker.kill()
                code = await asyncio.to_thread(worker.wait, STOP_GRACE_SECONDS)
            return -1 if code is None else code
        finally:
            slot.worker = None
            worker.close()
            pipeline.fold(crashed=False)

    def _hear(self, slot: _Slot, line: bytes) -> None:
        pipeline = slot.pipeline
        try:
            message = decode(WorkerMessage, json.loads(line))
        except (DecodeError, ValueError) as error:
            self._log.warning("a worker's line is unreadable", error=str(error)[:200])
            return
        if message.type == "event":
            self._events.emit(
                str(message.value.get("reason", "")),
                f"Workflow/{pipeline.name}",
                str(message.value.get("message", "")),
                severity=str(message.value.get("severity", "info")),
            )
        if message.type == "exit" and message.problem is not None:
            pipeline.error = message.problem
        now = self._clock.now()
        changed = pipeline.absorb(message, now)
        if now - slot.saved_at >= SAVE_EVERY_SECONDS:
            slot.saved_at = now
            snapshot = Memory(pipeline.status().counters, pipeline.memory.orders)
            snapshot.save(pipeline.memory_path)
        if changed or message.type == "status":
            self._on_change(pipeline.uid)

    def _has_ended(self, slot: _Slot, code: int) -> bool:
        """Decide by the exit code whether another worker is to follow."""
        pipeline = slot.pipeline
        if not slot.wanted:
            if pipeline.state is not PipelineState.FINISHED:
                self._enter(slot, PipelineState.STOPPED)
            return True
        if code == WorkerExit.DONE and pipeline.state in ENDED:
            return True
        if code in (WorkerExit.FENCED, WorkerExit.OVER_MEMORY):
            self._enter(slot, PipelineState.FAILED, error=pipeline.error)
            return True
        return False

    async def _wait_after_crash(self, slot: _Slot, code: int, crashes: int) -> None:
        pipeline = slot.pipeline
        pipeline.fold(crashed=True)
        delay = full_jitter(
            crashes, self._rng, first=CRASH_FIRST_SECONDS, longest=CRASH_LONGEST_SECONDS
        )
        self._events.emit(
            "WorkerCrashed",
            f"Workflow/{pipeline.name}",
            f"the worker ended with {code}; a new one starts in {delay:.1f} s",
            severity="warning",
        )
        self._log.warning("worker crashed", pipeline=pipeline.name, code=code, delay=delay)
        self._enter(
            slot,
            PipelineState.RETRYING,
            error=pipeline.error or _lost(f"it ended with {code}"),
            retry_at=self._clock.now() + delay,
        )
        slot.nudge.clear()
        if slot.wanted:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await slot.nudge.wait()

    async def _end(self, uid: Uid, control: Control, patience_seconds: float) -> None:
        """Tell a worker to end and wait for it; kill it when it does not."""
        slot = self._slots.get(uid)
        if slot is None:
            return
        slot.wanted, slot.ending = False, control
        slot.nudge.set()
        if control.type == "drain" and not slot.ended.is_set():
            self._enter(slot, PipelineState.DRAINING)
        if slot.worker is not None:
            await self._tell(slot.worker, control)
        if not await _within(slot.ended.wait(), patience_seconds):
            if slot.worker is not None:
                slot.worker.kill()
            await slot.ended.wait()
        if slot.pipeline.state not in (PipelineState.FINISHED, PipelineState.STOPPED):
            self._enter(slot, PipelineState.STOPPED)

    @staticmethod
    async def _tell(worker: WorkerHandle, control: Control) -> None:
        with contextlib.suppress(OperationFailed):  # it has ended by itself
            await asyncio.to_thread(worker.send, control_line(control))

    async def _stop_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for uid in self._slots:
                group.create_task(self._end(uid, Control("stop"), STOP_GRACE_SECONDS))

    async def _work_off(self, request: WorkerRequest, timeout_seconds: float) -> WorkerMessage:
        directory = directory_of(self._state_dir, request.spec.uid)
        is_passing = request.job == "probe" and not directory.exists()
        await asyncio.to_thread(make_private_dir, directory)
        fence = request.fence
        if request.job == "state-set":
            attempt = await asyncio.to_thread(raise_attempt, directory / "attempt")
            fence = Fence(request.fence.epoch, attempt)
        request = replace(
            request, fence=fence, state_dir=str(directory), log_path=str(directory / "log")
        )
        worker = await asyncio.to_thread(self._launcher.start, request)
        try:
            async with asyncio.timeout(timeout_seconds):
                async for line in read_lines(worker.out_fd):
                    message = decode(WorkerMessage, json.loads(line))
                    if message.type == "result":
                        return message
                    if message.type == "exit" and message.problem is not None:
                        return WorkerMessage("result", problem=message.problem)
        except TimeoutError:
            raise OperationFailed(
                "MYC-RUN-065",
                f"the {request.job} took longer than {timeout_seconds:g} s and was ended",
                fix="look at the pipeline's log, and whether both ends answer",
            ) from None
        finally:
            await self._dispose(worker)
            if is_passing and request.spec.uid not in self._slots:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        raise OperationFailed("MYC-RUN-066", f"the worker ended during the {request.job}")

    async def _dispose(self, worker: WorkerHandle) -> None:
        if await asyncio.to_thread(worker.wait, 0.5) is None:
            worker.kill()
            await asyncio.to_thread(worker.wait, STOP_GRACE_SECONDS)
        worker.close()

    def _enter(
        self,
        slot: _Slot,
        state: PipelineState,
        *,
        error: Problem | None = None,
        retry_at: float | None = None,
    ) -> None:
        slot.pipeline.enter(state, self._clock.now(), error=error, retry_at=retry_at)
        self._on_change(slot.pipeline.uid)


def _running(slot: _Slot) -> RunningPipeline:
    pipeline = slot.pipeline
    return RunningPipeline(
        uid=pipeline.uid,
        name=pipeline.name,
        generation=pipeline.generation,
        epoch=pipeline.epoch,
        spec_hash=pipeline.spec_hash,
        state=pipeline.state,
        has_process=not slot.ended.is_set(),
    )


def _lost(how: str) -> Problem:
    return Problem(
        code="MYC-RUN-067",
        what=f"the worker process was lost: {how}",
        fix="it is started again by itself; its log may say why it ended",
    )


async def _within(waiting: Awaitable[object], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return False
    return True
