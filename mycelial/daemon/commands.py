"""Run-time acts ordered by people: probe, logs, state-set, retry, sync. Each is done once.

A command that changes something is remembered on disk before it begins: after a kill in the
middle its repetition is answered with "unknown", never done a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from mycelial.daemon.duties import Duties, World
from mycelial.daemon.local import CommandMemory
from mycelial.daemon.policy import localise, refuse_spec, worker_policy
from mycelial.kernel.errors import (
    InternalError,
    MycelialError,
    NotAllowed,
    OperationFailed,
    Problem,
    UsageError,
)
from mycelial.runtime.ports import WorkerMessage, WorkerRequest
from mycelial.schemas.codec import DecodeError, decode, encode
from mycelial.schemas.desired import PipelineSpec, Uid
from mycelial.schemas.wire import Command, CommandResult, Fence

ANSWERED_MAX = 256
AT_ONCE_MAX = 4
LOG_LINES_MAX = 2000
PROBE_SECONDS = 60.0
STATE_SET_SECONDS = 60.0
DRAIN_SECONDS = 30.0


class Commands:
    """Carries out commands, at most four at once, and keeps their answers until delivered."""

    def __init__(self, world: World, duties: Duties, *, ask_snapshot: Callable[[], None]) -> None:
        self._world = world
        self._duties = duties
        self._ask_snapshot = ask_snapshot
        self._memory = dict(world.local.commands().begun)
        self._seen: dict[str, float] = {}  # id -> expiry, of this run
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._server_ahead_seconds = 0.0

    def note_server_time(self, server_time: float) -> None:
        """Learn how far the server's clock is ahead: commands expire by its time, not ours."""
        self._server_ahead_seconds = server_time - self._world.clock.now()

    async def answer(self, command: Command) -> CommandResult | None:
        """Carry out a command and return its answer; None for one that was already taken."""
        if command.id in self._seen:
            return None
        self._remember(command)
        try:
            async with self._slots:
                self._check_expiry(command)
                await self._begin(command)
                value = await self._do(command)
        except MycelialError as error:
            return CommandResult(command.id, ok=False, problem=error.problem)
        except DecodeError as error:
            return CommandResult(command.id, ok=False, problem=_bad_args(command, str(error)))
        except Exception as error:  # supervisor of one command: it must be answered, not lost
            self._world.log.error("command crashed", kind=command.kind, error=error)
            crash = InternalError(
                "MYC-DAEMON-091",
                f"{command.kind} failed on the daemon: {type(error).__name__}",
                fix="look at the daemon's log, and report it with the code",
            )
            return CommandResult(command.id, ok=False, problem=crash.problem)
        return CommandResult(command.id, ok=True, value=value)

    def _remember(self, command: Command) -> None:
        self._seen[command.id] = command.expires_at
        if len(self._seen) > ANSWERED_MAX:
            # The server never repeats an expired one, so the oldest expiry may be forgotten.
            del self._seen[min(self._seen, key=lambda key: self._seen[key])]

    def _check_expiry(self, command: Command) -> None:
        if self._world.clock.now() + self._server_ahead_seconds >= command.expires_at:
            raise OperationFailed(
                "MYC-DAEMON-050",
                f"the {command.kind} command expired before the daemon could begin it",
                fix="send it again",
            )

    async def _begin(self, command: Command) -> None:
        """Make it durable that a changing command is begun; reading ones may be repeated."""
        if command.kind != "state-set":
            return
        if command.id in self._memory:
            raise OperationFailed(
                "MYC-DAEMON-051",
                "the daemon was restarted in the middle of this command; it may have been done",
                fix="look with `mycelial state get`, then decide whether to send a new one",
            )
        newest = sorted(self._memory.items(), key=lambda item: item[1])[-ANSWERED_MAX + 1 :]
        self._memory = {**dict(newest), command.id: command.expires_at}
        await asyncio.to_thread(self._world.local.save_commands, CommandMemory(self._memory))

    async def _do(self, command: Command) -> Mapping[str, Any]:
        args = command.args
        match command.kind:
            case "probe":
                return await self._probe(args)
            case "logs":
                return await self._logs(args)
            case "state-set":
                return await self._state_set(args)
            case "retry":
                uid = self._uid(args)
                self._duties.clear_failure(uid)
                await self._world.supervisor.retry(uid)
                return {}
            case "sync":
                self._duties.wake()
                self._ask_snapshot()
                return {}
            case _:
                assert_never(command.kind)

    async def _probe(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Look at the real things with this daemon's secrets, policy and endpoints."""
        if "spec" in args:
            spec = decode(PipelineSpec, args["spec"])
            # I12: a probe opens connections too, so local policy is asked as for an assignment.
            if problem := refuse_spec(spec, self._world.config):
                raise NotAllowed(problem.code, problem.what, fix=problem.fix)
            spec = localise(spec, self._world.config)
        else:
            spec = self._spec(self._uid(args))
        message = await self._job(self._request("probe", spec), PROBE_SECONDS)
        return {"plan": encode(message.plan)} if message.plan else dict(message.value)

    async def _logs(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        uid = self._uid(args)
        lines, cursor = args.get("lines", 200), args.get("cursor", "")
        if not isinstance(lines, int) or not isinstance(cursor, str):
            raise DecodeError("logs: lines is a number and cursor a text")
        count = max(1, min(lines, LOG_LINES_MAX))
        found, after = await asyncio.to_thread(self._world.supervisor.log_tail, uid, count, cursor)
        return {"lines": list(found), "cursor": after}

    async def _state_set(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stop the pipeline, store the position in the destination, let converge start it."""
        uid, part, position = self._uid(args), args.get("part", "0"), args.get("position")
        if not isinstance(part, str) or not isinstance(position, str):
            raise DecodeError("state-set: part and position are texts")
        spec, supervisor = self._spec(uid), self._world.supervisor
        with self._duties.paused(uid):
            if self._duties.is_busy(uid):
                raise OperationFailed(
                    "MYC-DAEMON-052",
                    f"{spec.workflow} is being started or stopped just now",
                    fix="try again in a moment",
                )
            if uid in supervisor.running():
                await supervisor.drain(uid, DRAIN_SECONDS)
            request = self._request("state-set", spec, part=part, position=position)
            message = await self._job(request, STATE_SET_SECONDS)
        return dict(message.value)

    async def _job(self, request: WorkerRequest, timeout_seconds: float) -> WorkerMessage:
        message = await self._world.supervisor.job(request, timeout_seconds)
        if message.problem is not None:
            raise OperationFailed(
                message.problem.code, message.problem.what, fix=message.problem.fix
            )
        return message

    def _request(
        self, job: Any, spec: PipelineSpec, *, part: str = "", position: str = ""
    ) -> WorkerRequest:
        world = self._world
        status = next((s for s in world.supervisor.statuses() if s.uid == spec.uid), None)
        duty = self._duties.duty(spec.uid)
        epoch = duty.assignment.epoch if duty else 0
        return WorkerRequest(
            job=job,
            spec=spec,
            fence=Fence(epoch, status.attempt if status else 0),
            state_dir=str(world.local.state_dir),
            secrets=world.secrets(spec),
            policy=worker_policy(world.config),
            generation=duty.assignment.generation if duty else 1,
            part=part,
            position=position,
        )

    def _spec(self, uid: Uid) -> PipelineSpec:
        duty = self._duties.duty(uid)
        if duty is None:
            raise UsageError(
                "MYC-DAEMON-053",
                "that workflow is not assigned to this daemon",
                fix="look at `mycelial get workflows` for where it runs",
            )
        return duty.assignment.spec

    def _uid(self, args: Mapping[str, Any]) -> Uid:
        uid = args.get("uid")
        if isinstance(uid, str) and uid:
            return uid
        raise DecodeError("uid: the workflow's uid is missing")


def _bad_args(command: Command, what: str) -> Problem:
    return Problem(
        "MYC-DAEMON-054",
        f"{command.kind} cannot be understood: {what}",
        fix="upgrade the older of daemon and control plane",
    )
