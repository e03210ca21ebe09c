"""What a joined daemon may do: report, watch, answer commands. Only as itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from mycelial.controlplane.chronicle import ChangeCounter, Chronicle
from mycelial.controlplane.fleet import Roster
from mycelial.controlplane.http import NotAuthenticated
from mycelial.controlplane.threads import Lanes
from mycelial.controlplane.watch import WatchHub
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import new_hex
from mycelial.kernel.errors import NotAllowed, OperationFailed, Problem
from mycelial.schemas.wire import Command, CommandResult, Report, ReportReply, WatchEvent
from mycelial.storage.base import Store


class DaemonLinks:
    """The daemons' use cases, and the commands sent to them.

    Args: poke: called when the reconciler has something new to look at.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        hub: WatchHub,
        store: Store,
        lanes: Lanes,
        clock: Clock,
        chronicle: Chronicle,
        changes: ChangeCounter,
        poke: Callable[[], None],
    ) -> None:
        self._roster = roster
        self._hub = hub
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._chronicle = chronicle
        self._changes = changes
        self._poke = poke

    def admit(self, *, certificate_id: str, path_id: str) -> str:
        """Return the id the caller acts as.

        Raises: NotAuthenticated without a certificate of ours; NotAllowed when it belongs to
        another daemon than the path names, or to one that is unknown or revoked.
        """
        if not certificate_id:
            raise NotAuthenticated(
                "MYC-API-402",
                "this call needs a daemon's certificate",
                fix="join this machine: mycelial daemon join",
            )
        member = self._roster.get(certificate_id)
        if member is None or member.record.revoked_at is not None:
            raise NotAllowed(
                "MYC-API-404" if member is None else "MYC-API-405",
                "this daemon is not (or no longer) a member of the fleet",
                fix="join it again with a new token",
            )
        if path_id != certificate_id:
            self._chronicle.record(
                "ImpersonationRefused",
                f"Daemon/{member.record.name}",
                "it tried to act as another daemon",
                severity="error",
                daemon=member.record.name,
            )
            raise NotAllowed(
                "MYC-API-406",
                "a daemon may act only as the identity in its certificate",
                fix="use the daemon's own id in the path",
            )
        return certificate_id

    async def report(self, daemon_id: str, report: Report) -> ReportReply:
        """Fold a report and answer with the rhythm and the hash of the wanted set."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        folded = self._roster.fold(daemon_id, report, now=now, monotonic=monotonic)
        self._chronicle.tell(folded.transitions)
        if folded.record is not None:
            await self._lanes.store.run(self._store.update_daemon, folded.record)
        if folded.news:
            self._poke()
        if folded.changed:
            self._changes.bump()
        return self._roster.reply(folded, desired_hash=self._hub.desired_hash(daemon_id), now=now)

    def watch(
        self, daemon_id: str, *, token: str, held_hash: str, wait_seconds: float | None
    ) -> AsyncGenerator[WatchEvent, None]:
        """Return the daemon's stream."""
        return self._hub.stream(
            daemon_id, token=token, held_hash=held_hash, wait_seconds=wait_seconds
        )

    def result(self, daemon_id: str, result: CommandResult) -> bool:
        """Take a command's answer; false when nobody waits for it any more."""
        return self._hub.answer(daemon_id, result)

    def is_connected(self, daemon_id: str) -> bool:
        """Tell whether a command would be heard now."""
        return self._hub.is_connected(daemon_id)

    async def ask(
        self, daemon_id: str, kind: Any, args: Mapping[str, Any], *, timeout_seconds: float
    ) -> CommandResult:
        """Send a command and await its answer.

        Never raises for the daemon's sake: silence comes back as a problem MYC-CP-021.
        """
        command = Command(
            id=new_hex(16), kind=kind, expires_at=self._clock.now() + timeout_seconds, args=args
        )
        try:
            answer = self._hub.send(daemon_id, command)
        except OperationFailed as error:
            return CommandResult(id=command.id, ok=False, problem=error.problem)
        try:
            async with asyncio.timeout(timeout_seconds):
                # wait() and not await: a cancelled answer must not look like our cancellation.
                await asyncio.wait([answer])
        except TimeoutError:
            pass
        finally:
            self._hub.forget(daemon_id, command.id)
        if answer.done() and not answer.cancelled():
            return answer.result()
        problem = Problem(
            code="MYC-CP-021",
            what=f"the daemon did not answer {kind!r} within {timeout_seconds:g} s",
            fix="see whether it is online: mycelial get daemons",
        )
        return CommandResult(id=command.id, ok=False, problem=problem)
