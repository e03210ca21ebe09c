"""Puts the parts of a control plane together, and runs them until told to stop.

What the parts are made of (which source, which store, which plugins) is chosen by the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from mycelial.controlplane.acting import Acts
from mycelial.controlplane.api import build_app
from mycelial.controlplane.auth import Gate
from mycelial.controlplane.changing import Changes
from mycelial.controlplane.chronicle import ChangeCounter, Chronicle
from mycelial.controlplane.compiling import Compiler
from mycelial.controlplane.controller import FleetController
from mycelial.controlplane.daemon_api import build_daemon_app
from mycelial.controlplane.fleet import Roster
from mycelial.controlplane.joining import Joining
from mycelial.controlplane.links import DaemonLinks
from mycelial.controlplane.server import HttpServer, Listener
from mycelial.controlplane.service import ControlPlane
from mycelial.controlplane.threads import Lanes
from mycelial.controlplane.watch import WatchHub, WatchTiming
from mycelial.gitops.apply import Editor
from mycelial.gitops.base import ManifestSource
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng
from mycelial.kernel.ports import Log
from mycelial.kernel.secret import Secret
from mycelial.reconciler.placement import Resolve
from mycelial.security.ca import CertificateAuthority
from mycelial.security.signing import Signer
from mycelial.storage.base import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What a control plane is made of. `endpoints`: where daemons reach it, preferred first."""

    source: ManifestSource
    store: Store
    compiler: Compiler
    editor: Editor
    resolve: Resolve
    authority: CertificateAuthority
    signer: Signer
    admin_token: Secret
    clock: Clock
    rng: Rng
    log: Log
    endpoints: tuple[str, ...] = ()
    timing: WatchTiming | None = None


class Plane:
    """A whole control plane without its sockets. `load` before anything else."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.lanes = Lanes()
        self.chronicle = Chronicle(clock=parts.clock)
        self.counter = ChangeCounter()
        self.roster = Roster(started_at=parts.clock.monotonic())
        self.gate = Gate(parts.admin_token)
        store_id = parts.store.store_id()
        self.hub = WatchHub(
            store_id=store_id, clock=parts.clock, rng=parts.rng, timing=parts.timing
        )
        self.controller = FleetController(
            source=parts.source,
            compiler=parts.compiler,
            store=parts.store,
            signer=parts.signer,
            resolve=parts.resolve,
            roster=self.roster,
            hub=self.hub,
            lanes=self.lanes,
            clock=parts.clock,
            rng=parts.rng,
            chronicle=self.chronicle,
            changes=self.counter,
            log=parts.log,
        )
        self.service = self._service(store_id)

    def _service(self, store_id: str) -> ControlPlane:
        parts, controller = self._parts, self.controller
        links = DaemonLinks(
            roster=self.roster,
            hub=self.hub,
            store=parts.store,
            lanes=self.lanes,
            clock=parts.clock,
            chronicle=self.chronicle,
            changes=self.counter,
            poke=controller.poke,
        )
        joining = Joining(
            authority=parts.authority,
            signer=parts.signer,
            roster=self.roster,
            hub=self.hub,
            store=parts.store,
            lanes=self.lanes,
            clock=parts.clock,
            chronicle=self.chronicle,
            poke=controller.poke,
            endpoints=parts.endpoints,
        )
        changes = Changes(
            controller=controller,
            editor=parts.editor,
            resolve=parts.resolve,
            lanes=self.lanes,
            clock=parts.clock,
            chronicle=self.chronicle,
        )
        acts = Acts(links=links, clock=parts.clock, chronicle=self.chronicle, look=controller.look)
        return ControlPlane(
            controller=controller,
            changes=changes,
            joining=joining,
            links=links,
            acts=acts,
            store=parts.store,
            lanes=self.lanes,
            clock=parts.clock,
            counter=self.counter,
            store_id=store_id,
        )

    async def load(self) -> None:
        """Take over what the store remembers. Raises: OperationFailed."""
        await self.controller.load()

    def people_app(self, *, extra_mounts: Sequence[BaseRoute] = ()) -> Starlette:
        """Return the application of the people's listener."""
        return build_app(
            self.service, gate=self.gate, log=self._parts.log, extra_mounts=extra_mounts
        )

    def daemon_app(self) -> Starlette:
        """Return the application of the daemons' listener."""
        return build_daemon_app(self.service, log=self._parts.log)

    async def run(
        self,
        listeners: Sequence[Listener],
        *,
        stop: asyncio.Event,
        started: Callable[[dict[str, tuple[str, int]]], None],
    ) -> None:
        """Serve until `stop` is set, then say bye, finish what is in flight and write it down.

        `started` gets the bound addresses by listener name. Raises: what `HttpServer.bind` raises,
        before anything was started.
        """
        server = HttpServer(tuple(listeners), log=self._parts.log)
        bound = server.bind()
        try:
            await self.load()
        except BaseException:
            server.close()
            raise
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self.controller.run(), name="controller")
            async with server.serving():
                started(bound)
                await stop.wait()
                self.hub.close()
            working.cancel()

    def close(self) -> None:
        """Release threads, source and store."""
        self._parts.source.wake()
        self.lanes.close()
        try:
            self._parts.source.close()
        finally:
            self._parts.store.close()
