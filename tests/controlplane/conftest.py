"""Runs coroutine tests of this folder, and gives them a whole control plane on real sockets.

Real: TLS, certificates, git, SQLite, the schemas, the daemons' link and the people's client.
Fake: what a daemon does with its assignments.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mycelial.client.api import Client
from mycelial.client.link import Held, Link, enroll
from mycelial.controlplane.assembly import Parts, Plane
from mycelial.controlplane.compiling import Compiler
from mycelial.controlplane.datadir import DataDir
from mycelial.controlplane.frontend import SchemasFrontEnd
from mycelial.controlplane.parsecache import DiskParseCache
from mycelial.controlplane.server import Listener
from mycelial.controlplane.watch import WatchTiming
from mycelial.gitops.apply import Editor
from mycelial.gitops.embedded import EmbeddedSource
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import new_hex, seeded_rng
from mycelial.kernel.ports import NullLog
from mycelial.schemas.base import PluginConfig
from mycelial.schemas.catalog import Catalog, entry_for
from mycelial.schemas.edit import remove_object, replace_object
from mycelial.schemas.resolve import resolve
from mycelial.schemas.views import ApplyReply, ApplyRequest, PlanRequest
from mycelial.schemas.wire import (
    AssignmentSet,
    EnrollReply,
    EnrollRequest,
    Inventory,
    PipelineState,
    PipelineStatus,
    Report,
    ReportReply,
    WatchEvent,
)
from mycelial.security.ca import CertificateAuthority, make_csr
from mycelial.security.signing import Signer, verify
from mycelial.security.tls import client_context, server_context
from mycelial.storage.sqlite import SqliteStore

T = TypeVar("T")
TEST_SECONDS_MAX = 30


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Await a test that is a coroutine function."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def bounded() -> None:
        async with asyncio.timeout(TEST_SECONDS_MAX):
            await pyfuncitem.obj(**arguments)

    asyncio.run(bounded())
    return True


class Toy(PluginConfig):
    """A connector that names a table."""

    path: str = "toy.db"
    table: str


CATALOG = Catalog([entry_for("toy", "source", Toy), entry_for("toy", "destination", Toy)])
INVENTORY = Inventory(version="0", platform="test", capabilities=("connector/toy",))


def workflow(name: str = "orders", daemon: str = "shop-01", table: str = "orders") -> str:
    """Return a manifest."""
    return (
        "apiVersion: mycelial/v1\nkind: Workflow\n"
        f"metadata: {{name: {name}}}\nspec:\n  daemon: {daemon}\n"
        f"  source: {{toy: {{table: {table}}}}}\n  destination: {{toy: {{table: copy}}}}\n"
    )


class FakeDaemon:
    """A joined machine that claims to run whatever it is told."""

    def __init__(
        self, url: str, key: bytes, reply: EnrollReply, folder: Path, links: list[Link]
    ) -> None:
        self.id, self.name, self.reply, self.folder = reply.daemon_id, reply.name, reply, folder
        self._keys = reply.signing_keys
        self._links = links
        for name, data in (("crt", reply.certificate.encode()), ("key", key)):
            path = folder / f"{self.id}.{name}"
            path.write_bytes(data)
            path.chmod(0o600)
        self.tls = client_context(
            cert=folder / f"{self.id}.crt", key=folder / f"{self.id}.key", ca=reply.ca_bundle
        )
        self.url = url
        self.link = self.link_as(self.id)
        self.boot_id, self.seq = new_hex(), 0
        self.set = AssignmentSet(self.id, "", 0)
        self.done: tuple[str, ...] = ()

    def link_as(self, daemon_id: str) -> Link:
        """Return a link that claims to be `daemon_id` with this daemon's certificate."""
        made = Link(urls=[self.url], daemon_id=daemon_id, tls=self.tls, clock=SystemClock())
        self._links.append(made)
        return made

    def status_of(self, found: Any, state: PipelineState) -> PipelineStatus:
        return PipelineStatus(
            uid=found.uid, name=found.name, generation=found.generation,
            observed_generation=found.generation, epoch=found.epoch, attempt=1,
            spec_hash=found.spec_hash, state=state, positions={"0": "7"},
        )  # fmt: skip

    async def report(
        self, *, state: PipelineState = PipelineState.RUNNING, **changes: Any
    ) -> ReportReply:
        self.seq += 1
        held = self.set.bundle_hash()
        report = Report(
            boot_id=self.boot_id, seq=self.seq, store_id=self.set.store_id, rev=self.set.rev,
            received_hash=held, applied_hash=held, inventory_hash=INVENTORY.hash(),
            wall_time=0.0, inventory=INVENTORY, tombstones_done=self.done,
            pipelines=tuple(self.status_of(a, state) for a in self.set.assignments),
        )  # fmt: skip
        return await self.link.report(replace(report, **changes))

    def take(self, event: WatchEvent) -> AssignmentSet:
        assert event.signed is not None
        self.set = verify(event.signed, self._keys)
        self.done = tuple(t.uid for t in self.set.tombstones)
        return self.set

    @asynccontextmanager
    async def watching(self, held: Held | None = None) -> AsyncIterator[Watch]:
        async with aclosing(self.link.watch(held or Held())) as events:
            yield Watch(self, events)

    async def next_set(self) -> AssignmentSet:
        """Connect, take the set that is offered, and report that it runs."""
        async with self.watching() as watch:
            found = await watch.next_set()
        await self.report()
        return found


class Watch:
    """An open stream of a fake daemon."""

    def __init__(self, daemon: FakeDaemon, events: Any) -> None:
        self.daemon, self._events = daemon, events

    async def next(self, *types: str) -> WatchEvent:
        async with asyncio.timeout(10):
            async for event in self._events:
                if not types or event.type in types:
                    return event
        raise AssertionError(f"the stream ended without {types}")

    async def next_set(self) -> AssignmentSet:
        return self.daemon.take(await self.next("snapshot"))


class World:
    """A control plane in a directory, started and stopped at will."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = DataDir(root / "data")
        self.timing = WatchTiming()
        self.plane: Plane
        self.source: EmbeddedSource
        self.store: Any
        self.client: Client
        self.daemon_url = ""
        self.people_url = ""
        self.links: list[Link] = []
        self.wrap_store: Callable[[Any], Any] = lambda store: store

    def parts(self) -> Parts:
        self.data.create()
        clock, log = SystemClock(), NullLog()
        self.authority = CertificateAuthority.create_or_load(self.data.ca)
        self.data.keys.mkdir(mode=0o700, exist_ok=True)
        self.signer = Signer.create_or_load(self.data.keys / "signing.key")
        self.source = EmbeddedSource(self.data.repository)
        self.store = self.wrap_store(SqliteStore(self.data.store))
        self.cache = DiskParseCache(self.data.parse_cache, clock=clock, log=log)
        self.compiler = Compiler(SchemasFrontEnd(CATALOG), disk=self.cache)
        return Parts(
            source=self.source, store=self.store, compiler=self.compiler,
            editor=Editor(replace_object, remove_object), resolve=resolve,
            authority=self.authority, signer=self.signer, admin_token=self.data.admin_token(),
            clock=clock, rng=seeded_rng(1), log=log, timing=self.timing,
        )  # fmt: skip

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        self.plane = Plane(self.parts())
        files = self.authority.server_context_files()
        tls: ssl.SSLContext = server_context(
            cert=files.cert, key=files.key, ca=files.ca, client_required=False
        )
        listeners = [
            Listener("people", "127.0.0.1", 0, self.plane.people_app()),
            Listener("daemons", "127.0.0.1", 0, self.plane.daemon_app(), tls),
        ]
        stop, bound = asyncio.Event(), asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.plane.run(listeners, stop=stop, started=bound.set_result))
                ports = await bound
                self.people_url = f"http://127.0.0.1:{ports['people'][1]}"
                self.daemon_url = f"https://127.0.0.1:{ports['daemons'][1]}"
                self.plane.service.joining.endpoints = (self.daemon_url,)
                with Client(self.people_url, self.data.admin_token()) as self.client:
                    await self.seen(self.source.probe(None).revision)
                    try:
                        yield self
                    finally:
                        for link in self.links:
                            await link.close()
                        self.links.clear()
                stop.set()
        finally:
            self.plane.close()
            self.cache.close()

    async def call(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a call of the synchronous client beside the server's loop."""
        return await asyncio.to_thread(work, *args, **kwargs)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for the control plane to change until something holds."""
        async with asyncio.timeout(10):
            while not holds():
                await self.plane.counter.wait(self.plane.counter.value, 0.2)

    async def seen(self, revision: str) -> None:
        await self.until(lambda: self.plane.controller.snapshot.revision_seen == revision)

    async def push(self, files: Mapping[str, str | None], message: str = "test") -> str:
        """Commit past the control plane, as a person with git would."""
        from mycelial.gitops.base import Commit

        encoded = {p: t.encode() if t is not None else None for p, t in files.items()}
        parent = self.source.probe(None).revision
        revision = self.source.commit(Commit(parent, message, files=encoded))
        await self.seen(revision)
        return revision

    async def apply(self, *texts: str, **changes: Any) -> ApplyReply:
        request = PlanRequest(files={f"f{n}.yaml": text for n, text in enumerate(texts)})
        return await self.call(self.client.apply, ApplyRequest(request=request, **changes))

    async def join(
        self, name: str = "shop-01", token: str = "", key: tuple[bytes, str] | None = None
    ) -> FakeDaemon:
        if not token:
            token = (await self.call(self.client.create_token, name)).token
        private, csr = key or make_csr(name)
        tls = client_context(cert=None, key=None, ca=self.authority.ca_pem)
        request = EnrollRequest(token=token, name=name, csr=csr)
        reply = await enroll(self.daemon_url, request, tls=tls)
        daemon = FakeDaemon(self.daemon_url, private, reply, self.root, self.links)
        await daemon.report()
        return daemon

    async def reasons(self) -> list[str]:
        """Return the reasons of all events, oldest first, once they are written."""
        await self.plane.controller._flush()
        return [e.reason for e in await self.call(self.client.events, limit=1000)]

    def names(self) -> set[str]:
        return set(self.plane.controller.snapshot.desired.workflows)

    def duties(self) -> Iterable[Any]:
        return self.plane.controller.fleet().ledger.duties.values()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def manifest() -> Callable[..., str]:
    return workflow
