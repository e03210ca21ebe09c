"""The line to the control plane: one session after another, for ever.

A session opens with a full report, then watch and reports run side by side until either fails.
Whatever happens here stops no pipeline: the worst outcome is a wait before the next session.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from mycelial.client.link import LINK_ERRORS, Held, LinkBroken, LinkBusy, LinkRefused
from mycelial.daemon.commands import Commands
from mycelial.daemon.duties import Duties, World
from mycelial.daemon.ports import ControlLink
from mycelial.daemon.race import race, wait_for
from mycelial.daemon.reconnect import Attempts, Ending, next_delay
from mycelial.daemon.reports import ReportBuilder, coalesce_seconds, observable
from mycelial.kernel.errors import MycelialError, NotAllowed, OperationFailed
from mycelial.schemas.wire import Command, CommandResult, ReplyFlag, WatchEvent

OUTBOX_MAX = 64
SNAPSHOT_GRACE_SECONDS = 2.0
SNAPSHOT_AGAIN_SECONDS = 20.0
QUICK_WITHIN_SECONDS = 2.0
REPORT_MIN_SECONDS = 1.0
REPORT_MAX_SECONDS = 3600.0
COMMANDS_WAITING_MAX = 16
POLL_PAUSE_SECONDS = 0.3
RENEW_AGAIN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Bye:
    retry_after_seconds: float


class Uplink:
    """Keeps the control plane informed, and takes its sets and commands.

    `connect` builds a link from what is on disk, again for each session that follows a failure,
    so that a renewed certificate is used. `renew` is called when the server asks for a rotation.
    """

    def __init__(
        self,
        world: World,
        duties: Duties,
        builder: ReportBuilder,
        *,
        connect: Callable[[], ControlLink],
        load: Callable[[], Mapping[str, float]],
        renew: Callable[[ControlLink], Awaitable[None]],
    ) -> None:
        self._world = world
        self._duties = duties
        self._builder = builder
        self._connect = connect
        self._load = load
        self._renew = renew
        self._commands = Commands(world, duties, ask_snapshot=self.resync)
        self._changed = asyncio.Event()
        self._snapshot_wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._wants_renewal = False
        self._renew_not_before = float("-inf")
        self._outbox: dict[str, CommandResult] = {}
        self._inbox: asyncio.Queue[Command] = asyncio.Queue(COMMANDS_WAITING_MAX)
        self._attempts = Attempts()
        self._interval_seconds = 15.0
        self._established_at: float | None = None
        self._observed: object = None
        self._mismatch_since: float | None = None
        self._asked_at = float("-inf")
        self._link: ControlLink | None = None

    @property
    def is_connected(self) -> bool:
        """Tell whether a session is up."""
        return self._established_at is not None

    def changed(self) -> None:
        """Hear that something may have changed; a report goes out soon if it is worth one.
        Cheap: what changed is looked at once for many calls."""
        self._changed.set()

    def ask_snapshot(self) -> None:
        """Open the watch anew without a token, so that the server sends the whole set."""
        self._snapshot_wanted.set()

    def resync(self) -> None:
        """Ask for the whole set and report all there is, counters too, on a person's order."""
        self._observed = None
        self._changed.set()
        self.ask_snapshot()

    async def run(self) -> None:
        """Hold sessions until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_commands(group), name="uplink/commands")
            while True:
                delay = await self._one_session()
                await self._world.clock.pause(delay)

    async def last_words(self) -> None:
        """Send a final report, if somebody listens. Raises: a LinkError."""
        link = self._connect()
        try:
            await self._report(link)
        finally:
            await link.close()

    # -- one session ---------------------------------------------------------------------------

    async def _one_session(self) -> float:
        """Hold a session until it ends; return the seconds to wait before the next one."""
        world, started = self._world, self._world.clock.monotonic()
        retry_after: float | None = None
        is_refused = is_bye = False
        try:
            bye = await self._session()
            is_bye, retry_after = True, bye.retry_after_seconds
        except LINK_ERRORS as error:
            is_refused = isinstance(error, LinkRefused)
            retry_after = error.retry_after_seconds if isinstance(error, LinkBusy) else None
            self._lost(error)
        except MycelialError as error:
            self._lost(error)
        except Exception as error:  # supervisor of the line: a bug here must not stop pipelines
            world.log.error("session crashed", error=error)
        established, self._established_at = self._established_at, None
        length = None if established is None else world.clock.monotonic() - started
        ending = Ending(
            session_seconds=length,
            retry_after_seconds=retry_after,
            is_refused=is_refused,
            is_bye=is_bye,
        )
        self._attempts, delay = next_delay(self._attempts, ending, world.rng)
        return delay

    def _lost(self, error: MycelialError) -> None:
        if self._established_at is not None or self._attempts.failures == 0:
            name = self._world.identity.name
            self._world.events.emit(
                "ControlPlaneLost",
                f"Daemon/{name}",
                f"{error.code} {error.problem.what}",
                severity="warning",
            )
        self._world.log.debug("no session", error=error, failures=self._attempts.failures)

    async def _session(self) -> _Bye:
        link = self._connect()
        self._link = link
        try:
            # In full first: the server schedules nothing here before it knows what runs.
            self._builder.forget()
            await self._report(link)
            self._established_at = self._world.clock.monotonic()
            self._world.log.info("session up", interval_seconds=self._interval_seconds)
            bye = _Bye(0.0)

            async def follow() -> None:
                nonlocal bye
                bye = await self._follow(link)

            await race(follow(), self._report_for_ever(link), self._deliver_for_ever(link))
            return bye
        finally:
            self._link = None
            with contextlib.suppress(*LINK_ERRORS):
                await link.close()

    async def _follow(self, link: ControlLink) -> _Bye:
        """Read watch after watch: a new one when a snapshot is wanted or a poll has ended."""
        while True:
            held = Held()
            if not self._snapshot_wanted.is_set():
                content = self._duties.content
                if content is not None:
                    held = Held(content.store_id, content.rev, content.bundle_hash())
            self._snapshot_wanted.clear()
            bye: _Bye | None = None

            async def read(held: Held = held) -> None:
                nonlocal bye
                bye = await self._read(link, held)

            await race(read(), self._snapshot_wanted.wait())
            if bye is not None:
                return bye
            # A long poll has brought news; what it brought may still be under way here.
            await self._world.clock.pause(self._world.rng.uniform(0.1, POLL_PAUSE_SECONDS))

    async def _read(self, link: ControlLink, held: Held) -> _Bye | None:
        async with aclosing(link.watch(held)) as events:
            async for event in events:
                match event.type:
                    case "bye":
                        return _Bye(event.retry_after_seconds)
                    case "snapshot":
                        await self._take_set(event)
                    case "command" if event.command is not None:
                        self._queue(event.command)
                    case _:
                        pass
        return None

    async def _take_set(self, event: WatchEvent) -> None:
        if event.signed is None:
            return
        try:
            await self._duties.receive(event.signed)
        except MycelialError as error:
            # A full disk, most likely: what runs goes on, and the next report's hash differs
            # from the desired one, so the set is asked for again.
            self._world.events.emit(
                "SetNotStored",
                f"Daemon/{self._world.identity.name}",
                f"{error.code} {error.problem.what}",
                severity="error",
            )

    # -- reports -------------------------------------------------------------------------------

    async def _report_for_ever(self, link: ControlLink) -> None:
        """Report on the server's interval, and soon after every change that people can see.
        Returns when the certificate was renewed: the next session has to show it."""
        clock, rng = self._world.clock, self._world.rng
        quick, rev = 0, 0
        while not await self._renewed(link):
            sent_at = clock.monotonic()
            due_at = sent_at + self._interval_seconds * rng.uniform(0.9, 1.1)
            while (left := due_at - clock.monotonic()) > 0:
                if not await wait_for(self._changed, left, clock):
                    break
                content = self._duties.content
                if content is not None and content.rev != rev:
                    quick, rev = 0, content.rev  # somebody waits for what this set does
                await clock.pause(coalesce_seconds(quick))
                self._changed.clear()
                if observable(self._duties.view(load={})) != self._observed:
                    break
            quick = quick + 1 if clock.monotonic() - sent_at < QUICK_WITHIN_SECONDS else 0
            await self._report(link)

    async def _renewed(self, link: ControlLink) -> bool:
        """Renew the certificate when asked to; tell whether there is a new one."""
        now = self._world.clock.monotonic()
        if not self._wants_renewal or now < self._renew_not_before:
            return False
        self._renew_not_before = now + RENEW_AGAIN_SECONDS
        try:
            await self._renew(link)
        except (OperationFailed, NotAllowed) as error:
            self._world.events.emit(
                "CertificateNotRenewed",
                f"Daemon/{self._world.identity.name}",
                f"{error.code} {error.problem.what}",
                severity="error",
            )
            return False
        self._wants_renewal = False
        return True

    async def _report(self, link: ControlLink) -> None:
        """Send a report, and once more at once when the server wants more."""
        for _ in range(2):
            self._changed.clear()
            view = self._duties.view(load=self._load())
            self._observed = observable(view)
            report = self._builder.build(view, now=self._world.clock.now())
            reply = await link.report(report)
            wants_more = self._builder.acknowledge(report, reply)
            self._interval_seconds = min(
                max(reply.next_report_seconds, REPORT_MIN_SECONDS), REPORT_MAX_SECONDS
            )
            self._attempts = replace(self._attempts, window_seconds=reply.reconnect_window_seconds)
            self._commands.note_server_time(reply.server_time)
            self._compare(reply.desired_hash)
            if ReplyFlag.ROTATE_CERT in reply.flags:
                self._wants_renewal = True
            if not wants_more:
                return

    def _compare(self, desired_hash: str) -> None:
        """Ask for a snapshot when the server wants something else than we have (R1).

        A set that is on its way gets a moment to arrive; one that we refused or could not store
        is asked for again now and then, not in a loop.
        """
        content, now = self._duties.content, self._world.clock.monotonic()
        received = content.bundle_hash() if content else ""
        if not desired_hash or desired_hash == received:
            self._mismatch_since = None
            return
        if self._mismatch_since is None:
            self._mismatch_since = now
            self._interval_seconds = min(self._interval_seconds, SNAPSHOT_GRACE_SECONDS)
        elif (
            now - self._mismatch_since >= SNAPSHOT_GRACE_SECONDS * 0.9
            and now - self._asked_at >= SNAPSHOT_AGAIN_SECONDS
        ):
            self._asked_at = now
            self.ask_snapshot()

    # -- commands ------------------------------------------------------------------------------

    def _queue(self, command: Command) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # the server repeats what is not answered
            self._inbox.put_nowait(command)

    async def _take_commands(self, group: asyncio.TaskGroup) -> None:
        """Commands outlive the session that brought them; each has its own task."""
        while True:
            command = await self._inbox.get()
            group.create_task(self._answer(command), name=f"command/{command.kind}")

    async def _answer(self, command: Command) -> None:
        result = await self._commands.answer(command)
        if result is None:
            return
        while len(self._outbox) >= OUTBOX_MAX:
            self._outbox.pop(next(iter(self._outbox)))
        self._outbox[result.id] = result
        self._answered.set()

    async def _deliver_for_ever(self, link: ControlLink) -> None:
        while True:
            self._answered.clear()
            for command_id, result in list(self._outbox.items()):
                try:
                    await link.results(result)
                except (LinkBroken, LinkRefused) as error:
                    if isinstance(error, LinkRefused) and error.status in (401, 403):
                        raise
                    # Nobody waits for it any more: it must not end the session.
                    self._world.log.warning("answer not taken", id=command_id, error=error)
                self._outbox.pop(command_id, None)
            if not self._answered.is_set():
                await self._answered.wait()
