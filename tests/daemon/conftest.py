"""A control plane on a loopback TLS port, a supervisor without processes, and builders."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mycelial.daemon.agent import Agent, Surroundings
from mycelial.daemon.config import DaemonConfig
from mycelial.daemon.inventory import Abilities
from mycelial.daemon.local import Identity, LocalState
from mycelial.kernel.clock import ManualClock, SystemClock
from mycelial.kernel.entropy import seeded_rng
from mycelial.kernel.ports import NullLog, NullMeter
from mycelial.reconciler.running import RunningPipeline
from mycelial.runtime.ports import WorkerMessage
from mycelial.schemas.codec import encode
from mycelial.schemas.desired import PipelineSpec, PluginUse
from mycelial.schemas.wire import (
    Assignment,
    AssignmentSet,
    Command,
    LivePlan,
    PipelineState,
    PipelineStatus,
    ReportReply,
    SignedSet,
    Tombstone,
    WatchEvent,
    spec_hash_of,
)
from mycelial.security import tls
from mycelial.security.ca import CertificateAuthority, make_csr
from mycelial.security.signing import Signer

DAEMON_ID = "01900000-0000-7000-8000-000000000001"
WAIT_SECONDS = 15.0


class Bell:
    """Rung when something happened; waiters look again. No polling, no sleeps."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Event] = set()

    def ring(self) -> None:
        for waiter in self._waiters:
            waiter.set()

    async def next(self) -> None:
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            await waiter.wait()
        finally:
            self._waiters.discard(waiter)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await self.next()


class Events:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, str, str]] = []
        self.bell = Bell()

    def emit(self, reason: str, subject: str, message: str, *, severity: str = "info") -> None:
        self.all.append((reason, subject, message, severity))
        self.bell.ring()

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, *_ in self.all]


class FakeSupervisor:
    """Runs nothing; does what it is told at once and keeps a journal of it."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self.bell = Bell()
        self.journal: list[tuple[str, str]] = []
        self.specs: dict[str, PipelineSpec] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.jobs: list[Any] = []
        self.fail_start: list[Exception] = []
        self.ended = False
        self._pipelines: dict[str, RunningPipeline] = {}
        self._attempts: dict[str, int] = {}

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True

    async def start(self, *, spec, name, generation, epoch, secrets, policy) -> None:
        if self.fail_start:
            raise self.fail_start.pop(0)
        self.journal.append(("start", name))
        self.specs[spec.uid] = spec
        self.secrets[spec.uid] = dict(secrets(spec))
        self._attempts[spec.uid] = self._attempts.get(spec.uid, 0) + 1
        self._pipelines[spec.uid] = RunningPipeline(
            spec.uid, name, generation, epoch, spec_hash_of(spec), PipelineState.RUNNING
        )
        self.on_change(spec.uid)

    def on_change(self, uid: str) -> None:
        self._on_change(uid)
        self.bell.ring()

    async def until(self, condition: Callable[[], Any]) -> None:
        await self.bell.until(condition)

    async def drain(self, uid: str, deadline_seconds: float) -> None:
        self._end(uid, "drain")

    async def stop(self, uid: str) -> None:
        self._end(uid, "stop")

    async def adopt(self, uid: str, generation: int, epoch: int, name: str) -> None:
        self.journal.append(("adopt", name))
        self._pipelines[uid] = replace(
            self._pipelines[uid], generation=generation, epoch=epoch, name=name
        )
        self.on_change(uid)

    async def forget(self, uid: str) -> None:
        self._pipelines.pop(uid, None)
        self.journal.append(("forget", uid.removeprefix("uid-")))
        self.on_change(uid)

    async def job(self, request, timeout_seconds: float) -> WorkerMessage:
        self.jobs.append(request)
        plan = LivePlan(request.spec.uid, spec_hash_of(request.spec), "exactly-once", "", "", "")
        return WorkerMessage("result", plan=plan if request.job == "probe" else None)

    async def retry(self, uid: str) -> None:
        self.journal.append(("retry", uid))

    def running(self) -> dict[str, RunningPipeline]:
        return dict(self._pipelines)

    def statuses(self) -> tuple[PipelineStatus, ...]:
        return tuple(
            PipelineStatus(
                uid=p.uid,
                name=p.name,
                generation=p.generation,
                observed_generation=p.generation,
                epoch=p.epoch,
                attempt=self._attempts[p.uid],
                spec_hash=p.spec_hash,
                state=p.state,
            )
            for p in self._pipelines.values()
        )

    def log_tail(self, uid: str, lines: int, cursor: str) -> tuple[tuple[dict, ...], str]:
        return ({"event": "hello", "uid": uid},), "c1"

    def turn(self, uid: str, state: PipelineState, *, has_process: bool = True) -> None:
        self._pipelines[uid] = replace(self._pipelines[uid], state=state, has_process=has_process)
        self.on_change(uid)

    def _end(self, uid: str, verb: str) -> None:
        found = self._pipelines[uid]
        self.journal.append((verb, found.name))
        self._pipelines[uid] = replace(found, state=PipelineState.STOPPED, has_process=False)
        self.on_change(uid)


class ControlPlane:
    """The daemons' port of a control plane: real TLS, real HTTP/1.1, canned answers."""

    def __init__(self, folder: Path) -> None:
        self.authority = CertificateAuthority.create_or_load(folder / "ca")
        self.signer = Signer.create_or_load(folder / "signing.key")
        self.store_id, self.rev = "store-1", 0
        self.signed: SignedSet | None = None
        self.bundle_hash = ""
        self.reports: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.watches: list[dict[str, str]] = []
        self.enrolled: list[dict[str, Any]] = []
        self.renewals = 0
        self.tokens: dict[str, str] = {}  # token -> csr it was used with
        self.flags: list[str] = []
        self.interval_seconds = 30.0
        self.server_ahead_seconds = 0.0
        self.failing: tuple[int, dict[str, str]] | None = None
        self.is_buffering = False
        self.lose_enroll_replies = 0
        self.commands: list[Command] = []
        self.endless_line = False
        self.port = 0
        self._news = Bell()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    # -- what tests do ------------------------------------------------------------------------

    async def start(self) -> None:
        files = self.authority.server_context_files()
        context = tls.server_context(
            cert=files.cert, key=files.key, ca=files.ca, client_required=False
        )
        self._server = await asyncio.start_server(
            self._connection, "127.0.0.1", self.port, ssl=context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def publish(
        self,
        assignments: Iterable[Assignment] = (),
        tombstones: Iterable[Tombstone] = (),
        *,
        daemon_id: str = DAEMON_ID,
        rev: int | None = None,
    ) -> AssignmentSet:
        self.rev = self.rev + 1 if rev is None else rev
        content = AssignmentSet(
            daemon_id, self.store_id, self.rev, tuple(assignments), tuple(tombstones)
        )
        await self.publish_signed(self.signer.sign(content), content.bundle_hash())
        return content

    async def publish_signed(self, signed: SignedSet, bundle_hash: str) -> None:
        self.signed, self.bundle_hash = signed, bundle_hash
        await self._tell()

    async def send(self, command: Command) -> None:
        self.commands.append(command)
        await self._tell()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something that arrived here makes the condition true."""
        await self._news.until(condition)

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    # -- HTTP ---------------------------------------------------------------------------------

    async def _tell(self) -> None:
        self._news.ring()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request, *lines = head.split("\r\n")
                headers = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = request.split(" ")
                await self._answer(writer, method, target, json.loads(body) if body else None)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, target: str, body: Any
    ) -> None:
        path, _, query = target.partition("?")
        if self.failing is not None:
            status, headers = self.failing
            problems = {"problems": [{"code": "MYC-CP-099", "what": "no"}]}
            return await _reply(writer, problems, status, headers)
        if path == "/v1/ca":
            return await _reply(writer, {"ca_bundle": self.authority.ca_pem})
        if path == "/v1/enroll":
            return await self._enroll(writer, body)
        if path.endswith("/renew"):
            self.renewals += 1
            return await _reply(writer, self._identity("shop-01", body["csr"]))
        if path.endswith("/report"):
            self.reports.append(body)
            await _reply(writer, encode(self._report_reply(body)))
            return await self._tell()
        if path.endswith("/results"):
            self.results[body["id"]] = body
            await _reply(writer, {"taken": True})
            return await self._tell()
        params = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        self.watches.append(params)
        await self._tell()
        return await self._watch(writer, params)

    async def _enroll(self, writer: asyncio.StreamWriter, body: Any) -> None:
        self.enrolled.append(body)
        known = self.tokens.get(body["token"])
        if known is None or known not in ("", body["csr"]):
            problem = {"code": "MYC-CP-010", "what": "the token is used or unknown"}
            return await _reply(writer, {"problems": [problem]}, 401)
        self.tokens[body["token"]] = body["csr"]
        if self.lose_enroll_replies:
            self.lose_enroll_replies -= 1
            writer.transport.abort()
            return None
        return await _reply(writer, self._identity(body["name"], body["csr"]))

    def _identity(self, name: str, csr: str) -> dict[str, Any]:
        return {
            "daemon_id": DAEMON_ID,
            "name": name,
            "certificate": self.authority.sign_daemon(csr, daemon_id=DAEMON_ID, name=name),
            "ca_bundle": self.authority.ca_pem,
            "signing_keys": {self.signer.key_id: self.signer.public_key},
            "endpoints": [self.url],
        }

    def _report_reply(self, body: Any) -> ReportReply:
        flags, self.flags = tuple(self.flags), []
        return ReportReply(
            ack_seq=body["seq"],
            desired_hash=self.bundle_hash,
            next_report_seconds=self.interval_seconds,
            lease_seconds=60.0,
            reconnect_window_seconds=2.0,
            server_time=SystemClock().now() + self.server_ahead_seconds,
            flags=flags,
        )

    async def _watch(self, writer: asyncio.StreamWriter, params: dict[str, str]) -> None:
        is_poll = "wait" in params
        lines: list[bytes] = []
        if not is_poll:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

        async def say(event: WatchEvent) -> None:
            line = json.dumps(encode(event)).encode() + b"\n"
            if is_poll:
                lines.append(line)
            elif not self.is_buffering:
                writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                await writer.drain()

        await say(WatchEvent("hello", store_id=self.store_id, rev=self.rev))
        if self.endless_line:
            with_size = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            while True:
                writer.write(with_size)
                await writer.drain()
        has_it = params.get("token", "").replace("%3A", ":") == f"{self.store_id}:{self.rev}"
        told = self.signed if has_it else None
        sent: set[str] = set()
        while True:
            news = False
            if self.signed is not None and self.signed is not told:
                told, news = self.signed, True
                await say(WatchEvent("snapshot", store_id=self.store_id, signed=told))
            for command in self.commands:
                if command.id not in sent and command.id not in self.results:
                    sent.add(command.id)
                    news = True
                    await say(WatchEvent("command", command=command))
            if is_poll and news:
                return await _reply(writer, None, raw=b"".join(lines))
            await self._news.next()


async def _reply(
    writer: asyncio.StreamWriter,
    body: Any,
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    raw: bytes | None = None,
) -> None:
    data = json.dumps(body).encode() if raw is None else raw
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    await writer.drain()


class Machine:
    """A joined machine: state on disk, and agents that can be started on it one after another."""

    def __init__(self, folder: Path, control: ControlPlane) -> None:
        self.state_dir = folder / "state"
        self.control = control
        self.events = Events()
        self.config = DaemonConfig(base_dir=str(folder))
        self.environment: dict[str, str] = {}
        self.supervisor: FakeSupervisor | None = None
        self._bell = Bell()
        self.prepare: Callable[[FakeSupervisor], None] = lambda supervisor: None

    @property
    def local(self) -> LocalState:
        return LocalState(self.state_dir, clock=ManualClock(), events=self.events)

    def join(self, *, urls: tuple[str, ...] | None = None) -> None:
        """Write an identity as `daemon join` does."""
        control = self.control
        key, csr = make_csr("shop-01")
        self.local.save("key.pem", key)
        self.local.save("csr.pem", csr.encode())
        reply = control._identity("shop-01", csr)
        identity = Identity(
            daemon_id=DAEMON_ID,
            name="shop-01",
            urls=urls or (control.url,),
            ca_pin=f"sha256:{control.authority.pin()}",
            signing_keys=reply["signing_keys"],
        )
        self.local.save_identity(
            identity, certificate=reply["certificate"], ca_bundle=reply["ca_bundle"]
        )

    def _supervise(self, on_change: Callable[[str], None]) -> FakeSupervisor:
        self.supervisor = FakeSupervisor(on_change)
        self.prepare(self.supervisor)
        self._bell.ring()
        return self.supervisor

    def agent(self, **changes: Any) -> Agent:
        around = Surroundings(
            clock=SystemClock(),
            rng=seeded_rng(7),
            log=NullLog(),
            meter=NullMeter(),
            events=self.events,
            environment=self.environment,
            version="1.0",
            abilities=lambda: Abilities(("connector/sqlite", "connector/postgres")),
            supervisor=self._supervise,
        )
        return Agent(self.config, self.state_dir, replace(around, **changes))

    @asynccontextmanager
    async def running(self, **changes: Any):
        """Run an agent for the block, then stop it in good order."""
        stop, agent, before = asyncio.Event(), self.agent(**changes), self.supervisor
        async with asyncio.timeout(2 * WAIT_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(agent.run(stop))
            try:
                await self._bell.until(lambda: self.supervisor is not before)
                yield agent
            finally:
                stop.set()


@pytest.fixture
def control(tmp_path: Path) -> ControlPlane:
    return ControlPlane(tmp_path / "control")


@pytest.fixture
def machine(tmp_path: Path, control: ControlPlane) -> Machine:
    return Machine(tmp_path, control)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def make_assignment() -> Callable[..., Assignment]:
    return _assignment


def _assignment(
    name: str = "orders",
    *,
    generation: int = 1,
    epoch: int = 1,
    plugin: str = "sqlite",
    config: dict[str, Any] | None = None,
    endpoint: str = "",
) -> Assignment:
    spec = PipelineSpec(
        workflow=name,
        uid=f"uid-{name}",
        scope=f"scope-{name}",
        source=PluginUse(plugin, config or {"path": "a.db"}, endpoint=endpoint),
        destination=PluginUse("postgres", {"password": {"secret": "warehouse-pw"}}),
    )
    return Assignment(
        uid=spec.uid,
        name=name,
        generation=generation,
        epoch=epoch,
        spec_hash=spec_hash_of(spec),
        spec=spec,
    )
