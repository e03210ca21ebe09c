"""The daemon's life: take the lock, run what was last accepted, then talk to the control plane.

    lock -> identity -> last set from disk -> converge (at once, also offline)
                                           -> uplink: sessions for ever
    stop signal -> no new operations -> drain with a deadline -> last report -> end

A kill at any point leaves what the next start expects: files replaced whole, a lock that the
system frees, workers that end when their pipe closes, a fence that their successor raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mycelial.client.link import LINK_ERRORS, Link
from mycelial.daemon import enroll
from mycelial.daemon.config import DaemonConfig
from mycelial.daemon.duties import Duties, World
from mycelial.daemon.inventory import Abilities, take_inventory
from mycelial.daemon.local import Boot, Identity, LocalState
from mycelial.daemon.lock import exclusive
from mycelial.daemon.ports import ControlLink, Supervisor
from mycelial.daemon.reports import ReportBuilder
from mycelial.daemon.secrets import SecretsOfSpec
from mycelial.daemon.uplink import Uplink
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng, new_hex
from mycelial.kernel.errors import MycelialError, OperationFailed
from mycelial.kernel.ports import EventSink, Log, Meter
from mycelial.schemas.desired import Uid
from mycelial.security import tls

DRAIN_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0
LAST_WORDS_SECONDS = 5.0
INVENTORY_AGAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the composition root gives the agent.

    `supervisor` builds the real one; its argument is told of every change of a pipeline.
    `connect` replaces the TLS link in tests and simulation.
    """

    clock: Clock
    rng: Rng
    log: Log
    meter: Meter
    events: EventSink
    environment: Mapping[str, str]
    version: str
    abilities: Callable[[], Abilities]
    supervisor: Callable[[Callable[[Uid], None]], Supervisor]
    connect: Callable[[LocalState, Identity], ControlLink] | None = None


class Agent:
    """One joined daemon. `run` once."""

    def __init__(
        self,
        config: DaemonConfig,
        state_dir: Path,
        around: Surroundings,
        *,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._around = around
        self._drain_seconds = drain_seconds
        self.is_connected: Callable[[], bool] = lambda: False

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; then drain, report, and return.

        Raises: OperationFailed MYC-DAEMON-020 (in use), MYC-DAEMON-021 (not joined);
        StateCorrupt MYC-DAEMON-011 (identity).
        """
        with exclusive(self._state_dir):
            around = self._around
            local = LocalState(self._state_dir, clock=around.clock, events=around.events)
            identity = local.identity()
            if identity is None:
                raise _not_joined(local)
            boot = self._begin(local)
            await self._live(local, identity, boot, stop)
            with contextlib.suppress(MycelialError):  # a full disk must not spoil an orderly end
                local.end_boot(boot)

    def _begin(self, local: LocalState) -> Boot:
        boot_id = new_hex(8)
        try:
            boot = local.begin_boot(boot_id)
        except OperationFailed as error:
            # A full disk stops no pipeline: what was accepted can still be run.
            self._around.log.error("state not writable", error=error)
            return Boot(boot_id, self._around.clock.now())
        self._around.log.info("daemon starts", boot_id=boot_id, was_clean=boot.was_clean)
        return boot

    async def _live(
        self, local: LocalState, identity: Identity, boot: Boot, stop: asyncio.Event
    ) -> None:
        around, config = self._around, self._named(identity)
        notify: list[Callable[[], None]] = []

        def on_pipeline(_uid: Uid) -> None:
            _tell(notify)

        world = World(
            identity=identity,
            config=config,
            local=local,
            supervisor=around.supervisor(on_pipeline),
            secrets=SecretsOfSpec(config, around.environment),
            clock=around.clock,
            rng=around.rng,
            log=around.log,
            events=around.events,
        )
        duties = Duties(world, on_change=lambda: _tell(notify[:1]))
        builder = ReportBuilder(boot.boot_id)
        uplink = Uplink(
            world,
            duties,
            builder,
            connect=lambda: self._connect(local),
            load=_load,
            renew=lambda link: self._renew(local, link),
        )
        notify += [uplink.changed, duties.wake]
        self.is_connected = lambda: uplink.is_connected
        duties.load()
        async with asyncio.TaskGroup() as group:
            workers = group.create_task(world.supervisor.run(), name="supervisor")
            converging = group.create_task(duties.run(), name="converge")
            talking = group.create_task(self._talk(world, builder, uplink), name="uplink")
            await stop.wait()
            around.log.info("daemon stops", drain_seconds=self._drain_seconds)
            duties.end()
            converging.cancel()
            await self._drain(world)
            talking.cancel()
            await self._say_goodbye(uplink)
            workers.cancel()

    async def _talk(self, world: World, builder: ReportBuilder, uplink: Uplink) -> None:
        """Take the inventory, then talk. Pipelines wait for neither; but without an inventory
        nothing is said, for a report of no capabilities would take the work away."""
        around = self._around
        while True:
            try:
                builder.inventory = await asyncio.to_thread(
                    take_inventory,
                    world.config,
                    version=around.version,
                    abilities=around.abilities,
                    labels=world.identity.labels,
                )
                break
            except OperationFailed as error:
                subject = f"Daemon/{world.identity.name}"
                message = f"{error.code} {error.problem.what}"
                around.events.emit("InventoryFailed", subject, message, severity="error")
                await around.clock.pause(INVENTORY_AGAIN_SECONDS)
        await uplink.run()

    def _named(self, identity: Identity) -> DaemonConfig:
        """Return the config under the name that the control plane knows."""
        return replace(self._config, node=replace(self._config.node, name=identity.name))

    def _connect(self, local: LocalState) -> ControlLink:
        """Build a link from what is on disk now: after a renewal that is the new certificate."""
        identity = local.identity()
        assert identity is not None, "an identity is never removed under a running daemon"
        if self._around.connect is not None:
            return self._around.connect(local, identity)
        context = tls.client_context(cert=local.cert_file, key=local.key_file, ca=local.ca_file)
        return Link(
            urls=self._config.server.urls or identity.urls,
            daemon_id=identity.daemon_id,
            tls=context,
            clock=self._around.clock,
        )

    async def _renew(self, local: LocalState, link: ControlLink) -> None:
        identity = local.identity()
        assert identity is not None, "an identity is never removed under a running daemon"
        await enroll.renew(local, identity, link)
        self._around.log.info("certificate renewed")

    async def _drain(self, world: World) -> None:
        """End all pipelines: in-flight units are committed, within the deadline."""
        running = [p.uid for p in world.supervisor.running().values() if p.has_process]
        try:
            async with asyncio.timeout(self._drain_seconds + STOP_GRACE_SECONDS):
                await asyncio.gather(
                    *(world.supervisor.drain(uid, self._drain_seconds) for uid in running),
                    return_exceptions=True,
                )
        except TimeoutError:
            # The supervisor's own end, next, stops them; the next start goes on from the
            # last commit.
            world.log.warning("not all pipelines drained in time", pipelines=len(running))

    async def _say_goodbye(self, uplink: Uplink) -> None:
        if not uplink.is_connected:
            return
        with contextlib.suppress(*LINK_ERRORS, TimeoutError, MycelialError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await uplink.last_words()


def _tell(listeners: Sequence[Callable[[], None]]) -> None:
    for listener in listeners:
        listener()


def _load() -> Mapping[str, float]:
    """Return what a report says of the machine's strain."""
    if not hasattr(os, "getloadavg"):
        return {}
    return {"load_1m": round(os.getloadavg()[0], 2), "cpus": float(os.cpu_count() or 1)}


def _not_joined(local: LocalState) -> OperationFailed:
    aside = local.set_aside("identity.json")
    why = f"; its identity.json was damaged and set aside as {aside}" if aside else ""
    return OperationFailed(
        "MYC-DAEMON-021",
        f"this machine has not joined a control plane{why}",
        fix=("restore identity.json from a backup, or " if aside else "")
        + "join it: mycelial daemon join --server URL --token TOKEN --name NAME",
    )
